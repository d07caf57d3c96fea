#include "core/metrics/tensorboard.h"

#include <array>
#include <bit>

#include "core/metrics/run_directory.h"

namespace trireme {

namespace {

void put_little_endian(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

// Fields of one message in protobuf's wire format. Written by hand: libprotobuf can't be loaded beside Debian's
// libsentencepiece, which exports the symbols of an older protobuf inside it.
class Message {
 public:
  void add_double(int field, double value) {
    tag(field, kFixed64);
    put_little_endian(text_, std::bit_cast<uint64_t>(value), 8);
  }
  void add_float(int field, float value) {
    tag(field, kFixed32);
    put_little_endian(text_, std::bit_cast<uint32_t>(value), 4);
  }
  void add_int(int field, int64_t value) {
    tag(field, kVarint);
    varint(static_cast<uint64_t>(value));
  }
  void add_bytes(int field, const std::string& value) {
    tag(field, kLengthDelimited);
    varint(value.size());
    text_ += value;
  }
  std::string finish() { return std::move(text_); }

 private:
  enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

  void tag(int field, WireType type) { varint((static_cast<uint64_t>(field) << 3) | type); }
  // Seven bits a byte, lowest first; the top bit says that more follow.
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }

  std::string text_;
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
    : file_(directory /
            ("events.out.tfevents." + std::to_string(static_cast<int64_t>(wall_time)) + "." + host_name())) {
  file_.append(event_record(version_event(wall_time)));
  if (step > 0) file_.append(event_record(restart_event(wall_time, step + 1)));
}

void EventWriter::write(double wall_time, int64_t step, const Scalars& scalars) {
  file_.append(event_record(scalar_event(wall_time, step, scalars)));
}

}  // namespace trireme
