#include "core/random/philox.h"

#include <cmath>
#include <numbers>

namespace trireme {

uint64_t random_key(uint64_t seed, std::string_view name) {
  uint64_t h = 0xCBF29CE484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  h += seed * 0x9E3779B97F4A7C15u;
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
  return h ^ (h >> 31);
}

NormalPair normal_pair_at(uint64_t key, uint64_t index) {
  const PhiloxBlock block = philox4x32(key, index);
  const auto u64 = [&](int i) { return (uint64_t{block.x[i]} << 32) | block.x[i + 1]; };
  const double u = static_cast<double>((u64(0) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double v = static_cast<double>(u64(2) >> 11) * 0x1p-53;        // [0, 1)
  const double radius = std::sqrt(-2.0 * std::log(u));
  const double angle = 2.0 * std::numbers::pi * v;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

double normal_at(uint64_t key, uint64_t index) {
  const NormalPair pair = normal_pair_at(key, index / 2);
  return index % 2 == 0 ? pair.even : pair.odd;
}

uint64_t uniform_below(uint64_t key, uint64_t counter, uint64_t bound) {
  const PhiloxBlock block = philox4x32(key, counter, 1);
  const uint64_t bits = (uint64_t{block.x[0]} << 32) | block.x[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * bound) >> 64);
}

}  // namespace trireme
