#include "core/config/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

namespace trireme {

namespace {

struct Suffix {
  std::string_view text;
  double factor;
};

// Splits off the first suffix that fits; a number without one has factor 1.
template <size_t N>
std::optional<double> parse_with_suffix(std::string_view text, const std::array<Suffix, N>& suffixes) {
  for (const Suffix& suffix : suffixes) {
    if (text.ends_with(suffix.text)) {
      const auto number = parse_real(text.substr(0, text.size() - suffix.text.size()));
      if (!number) return std::nullopt;
      return *number * suffix.factor;
    }
  }
  return parse_real(text);
}

std::optional<int64_t> parse_plain_integer(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> whole(std::optional<double> value) {
  constexpr double kLimit = 9007199254740992.0;  // 2^53: beyond it a double is no longer exact
  if (!value || std::abs(*value) > kLimit) return std::nullopt;
  const double rounded = std::round(*value);  // 1.005k is 1004.9999999999999 in binary
  if (std::abs(rounded - *value) > 1e-12 * std::abs(*value)) return std::nullopt;
  return static_cast<int64_t>(rounded);
}

constexpr std::array<Suffix, 4> kByteSuffixes = {{{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}}};

}  // namespace

std::optional<double> parse_real(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_count(std::string_view text) {
  if (const auto integer = parse_plain_integer(text)) return integer;
  static constexpr std::array<Suffix, 3> kSuffixes = {{{"k", 1e3}, {"M", 1e6}, {"B", 1e9}}};
  return whole(parse_with_suffix(text, kSuffixes));
}

std::optional<int64_t> parse_bytes(std::string_view text) {
  if (const auto integer = parse_plain_integer(text)) return integer;
  return whole(parse_with_suffix(text, kByteSuffixes));
}

std::optional<double> parse_seconds(std::string_view text) {
  static constexpr std::array<Suffix, 3> kSuffixes = {{{"min", 60}, {"s", 1}, {"h", 3600}}};
  return parse_with_suffix(text, kSuffixes);
}

std::string exact_bytes(int64_t bytes) {
  for (const Suffix& suffix : kByteSuffixes) {
    const int64_t unit = static_cast<int64_t>(suffix.factor);
    if (bytes != 0 && bytes % unit == 0) return std::to_string(bytes / unit) + std::string(suffix.text);
  }
  return std::to_string(bytes);
}

std::string exact_real(double value) {
  std::array<char, 32> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), result.ptr};
}

}  // namespace trireme
