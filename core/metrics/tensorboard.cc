#include "core/metrics/tensorboard.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>

#include <array>
#include <bit>

#include "core/metrics/run_directory.h"

namespace trireme {

namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

// Fields of one message, written by number.
class Message {
 public:
  void add_double(int field, double value) {
    tag(field, WireFormatLite::WIRETYPE_FIXED64);
    out_.WriteLittleEndian64(std::bit_cast<uint64_t>(value));
  }
  void add_float(int field, float value) {
    tag(field, WireFormatLite::WIRETYPE_FIXED32);
    out_.WriteLittleEndian32(std::bit_cast<uint32_t>(value));
  }
  void add_int(int field, int64_t value) {
    tag(field, WireFormatLite::WIRETYPE_VARINT);
    out_.WriteVarint64(static_cast<uint64_t>(value));
  }
  void add_bytes(int field, const std::string& value) {
    tag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
    out_.WriteVarint32(static_cast<uint32_t>(value.size()));
    out_.WriteString(value);
  }
  std::string finish() {
    out_.Trim();
    return text_;
  }

 private:
  void tag(int field, WireFormatLite::WireType type) { out_.WriteTag(WireFormatLite::MakeTag(field, type)); }

  std::string text_;
  StringOutputStream stream_{&text_};
  CodedOutputStream out_{&stream_};
};

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog log = 7; }
constexpr int kWallTime = 1;
constexpr int kStep = 2;
constexpr int kFileVersion = 3;
constexpr int kSummary = 5;
constexpr int kSessionLog = 7;

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}

void put_little_endian(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

std::string version_event(double wall_time) {
  Message event;
  event.add_double(kWallTime, wall_time);
  event.add_bytes(kFileVersion, "brain.Event:2");
  return event.finish();
}

std::string restart_event(double wall_time, int64_t step) {
  Message log;
  log.add_int(1, 1);  // SessionLog { SessionStatus status = 1; }, START = 1
  Message event;
  event.add_double(kWallTime, wall_time);
  event.add_int(kStep, step);
  event.add_bytes(kSessionLog, log.finish());
  return event.finish();
}

std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars) {
  Message summary;
  for (const auto& [name, number] : scalars) {
    Message value;  // Summary.Value { string tag = 1; float simple_value = 2; }
    value.add_bytes(1, name);
    value.add_float(2, number);
    summary.add_bytes(1, value.finish());
  }
  Message event;
  event.add_double(kWallTime, wall_time);
  event.add_int(kStep, step);
  event.add_bytes(kSummary, summary.finish());
  return event.finish();
}

std::string event_record(std::string_view event) {
  std::string record;
  put_little_endian(record, event.size(), 8);
  put_little_endian(record, masked_crc32c(record), 4);
  record += event;
  put_little_endian(record, masked_crc32c(event), 4);
  return record;
}

EventWriter::EventWriter(const std::filesystem::path& directory, double wall_time, int64_t step)
    : file_(directory / ("events.out.tfevents." + std::to_string(static_cast<int64_t>(wall_time)) + "." +
                         host_name())) {
  file_.append(event_record(version_event(wall_time)));
  if (step > 0) file_.append(event_record(restart_event(wall_time, step + 1)));
}

void EventWriter::write(double wall_time, int64_t step, const Scalars& scalars) {
  file_.append(event_record(scalar_event(wall_time, step, scalars)));
}

}  // namespace trireme
