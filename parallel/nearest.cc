#include "parallel/nearest.h"

namespace trireme {

namespace {

// 0: there is none.
std::string joined(int64_t below, int64_t above) {
  if (below == 0 || below == above) return std::to_string(above);
  if (above == 0) return std::to_string(below);
  return std::to_string(below) + " or " + std::to_string(above);
}

}  // namespace

std::string nearest_multiples(int64_t unit, int64_t value) {
  const int64_t below = value / unit * unit;
  return joined(below, value % unit == 0 && below > 0 ? below : below + unit);
}

std::string nearest_divisors(int64_t whole, int64_t value) {
  int64_t below = 0;
  int64_t above = 0;
  const auto look = [&](int64_t divisor) {
    if (divisor <= value && divisor > below) below = divisor;
    if (divisor >= value && (above == 0 || divisor < above)) above = divisor;
  };
  for (int64_t d = 1; d <= whole / d; ++d) {
    if (whole % d != 0) continue;
    look(d);
    look(whole / d);
  }
  return joined(below, above);
}

}  // namespace trireme
