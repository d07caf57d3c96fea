// Numbers with units, as people write them in a configuration. Each parser returns nothing when the text is not
// such a number; a sign is read, so that the caller can say "out of range" instead of "not a number".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace trireme {

std::optional<double> parse_real(std::string_view text);     // 3e-4, .5, 12; never NaN or infinite
std::optional<int64_t> parse_count(std::string_view text);   // 100, 20k, 1.5M, 2B (thousand, million, billion)
std::optional<int64_t> parse_bytes(std::string_view text);   // 4096, 512KiB, 64MiB, 4GiB, 1TiB
std::optional<double> parse_seconds(std::string_view text);  // 30, 30s, 10min, 2h

std::string exact_bytes(int64_t bytes);  // the shortest text that parse_bytes reads back: "4GiB"
std::string exact_real(double value);    // the shortest text that reads back to the same double

}  // namespace trireme
