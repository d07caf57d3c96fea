// Numbers for people: short, with a unit, never exact.
#pragma once

#include <cstdint>
#include <string>

namespace trireme {

std::string human_bytes(int64_t bytes);         // "512 B", "1.5 KiB", "12.3 GiB"
std::string human_count(double count);          // "950", "1.24k", "85.2k", "1.92M", "8.03B"
std::string human_duration(double seconds);     // "12s", "3m 20s", "1h 02m", "2d 03h"; "?" when not finite
std::string fixed(double value, int decimals);  // printf's %.*f
std::string scientific(double value);           // printf's %.2e: "3.00e-04"

}  // namespace trireme
