// The legal values next to one that isn't, for the hints of messages: "4 or 8".
#pragma once

#include <cstdint>
#include <string>

namespace trireme {

// The multiples of `unit` below and above `value` that are at least `unit`. REQUIRES: unit >= 1.
std::string nearest_multiples(int64_t unit, int64_t value);

// The divisors of `whole` below and above `value`; `value` itself where it is one. O(√whole). REQUIRES: whole >= 1.
std::string nearest_divisors(int64_t whole, int64_t value);

}  // namespace trireme
