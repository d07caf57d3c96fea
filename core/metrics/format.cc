#include "core/metrics/format.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace trireme {

namespace {

template <class... Args>
std::string print(const char* format, Args... args) {
  std::array<char, 64> buffer;
  std::snprintf(buffer.data(), buffer.size(), format, args...);
  return buffer.data();
}

// Three digits, whatever the size.
std::string three_digits(double value) {
  const double magnitude = std::abs(value);
  return fixed(value, magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0);
}

}  // namespace

std::string fixed(double value, int decimals) { return print("%.*f", decimals, value); }

std::string scientific(double value) { return print("%.2e", value); }

std::string human_bytes(int64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fixed(value, unit == 0 ? 0 : 1) + " " + kUnits[unit];
}

std::string human_count(double count) {
  static constexpr std::array<const char*, 5> kUnits = {"", "k", "M", "B", "T"};
  size_t unit = 0;
  while (std::abs(count) >= 999.5 && unit + 1 < kUnits.size()) {
    count /= 1000;
    ++unit;
  }
  return (unit == 0 && count == std::floor(count) ? fixed(count, 0) : three_digits(count)) + kUnits[unit];
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 60) return print("%llds", whole);
  if (whole < 3600) return print("%lldm %02llds", whole / 60, whole % 60);
  const long long minutes = whole / 60;
  if (minutes < 60 * 24) return print("%lldh %02lldm", minutes / 60, minutes % 60);
  const long long hours = minutes / 60;
  return print("%lldd %02lldh", hours / 24, hours % 24);
}

}  // namespace trireme
