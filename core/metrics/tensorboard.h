// TensorBoard event files.
//
// A file is a row of records: u64 length, u32 masked crc32c of it, that many bytes, u32 masked crc32c of the bytes,
// all little-endian. The bytes are a protobuf Event; the first one carries file_version "brain.Event:2".
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/metrics/files.h"

namespace trireme {

using Scalars = std::vector<std::pair<std::string, float>>;  // tag, value

// CRC-32C (Castagnoli), and TensorFlow's masking of it.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

// Serialised Event messages.
std::string version_event(double wall_time);
std::string restart_event(double wall_time, int64_t step);  // TensorBoard drops what older files have from `step` on
std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars);

std::string event_record(std::string_view event);

// Appends to a new file `events.out.tfevents.TIME.HOST` in `directory`. Not thread-safe.
// Throws MachineError when the file can't be written.
class EventWriter {
 public:
  // `step`: the last step that an earlier part of the run has kept; 0 for a new run. Seconds since 1970.
  EventWriter(const std::filesystem::path& directory, double wall_time, int64_t step);
  void write(double wall_time, int64_t step, const Scalars& scalars);

 private:
  AppendFile file_;
};

}  // namespace trireme
