#include "core/data/blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "core/error.h"

namespace trireme {

namespace {

// Whole numbers in the ratio of the weights: exact when nine decimals say all and the sum stays below the
// longest period, else rounded so that the sum is the longest period.
std::vector<int64_t> whole_shares(std::span<const double> weights) {
  std::vector<int64_t> shares(weights.size());
  for (double scale = 1; scale <= 1e9; scale *= 10) {
    bool exact = true;
    for (size_t s = 0; s < weights.size() && exact; ++s) {
      const double scaled = weights[s] * scale;
      exact = scaled >= 0.5 && scaled < 1e15 && std::abs(scaled - std::round(scaled)) <= 1e-9 * scaled;
      if (exact) shares[s] = std::llround(scaled);
    }
    if (!exact) continue;
    int64_t divisor = 0;
    for (const int64_t share : shares) divisor = std::gcd(divisor, share);
    int64_t sum = 0;
    for (int64_t& share : shares) {
      share /= divisor;
      sum += share;
    }
    if (sum <= Blend::kMaxPeriod) return shares;
    break;
  }
  // Largest remainders; a source too small for one slot gets one.
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::pair<double, size_t>> remainders;
  int64_t rest = Blend::kMaxPeriod;
  for (size_t s = 0; s < weights.size(); ++s) {
    const double exact = weights[s] / total * static_cast<double>(Blend::kMaxPeriod);
    shares[s] = std::max<int64_t>(1, static_cast<int64_t>(std::floor(exact)));
    rest -= shares[s];
    remainders.emplace_back(static_cast<double>(shares[s]) - exact, s);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t r = 0; rest > 0; r = (r + 1) % remainders.size(), --rest) ++shares[remainders[r].second];
  // Too many sources below one slot: the largest one pays.
  if (rest < 0) *std::max_element(shares.begin(), shares.end()) += rest;
  return shares;
}

}  // namespace

Blend::Blend(std::span<const double> weights) {
  TRIREME_CHECK(!weights.empty() && weights.size() < 65536);
  for (size_t s = 0; s < weights.size(); ++s) {
    if (weights[s] > 0 && std::isfinite(weights[s])) continue;
    throw ConfigError({.what = "the weight of a data source can't be used",
                       .expected = "a positive number",
                       .found = std::to_string(weights[s]),
                       .where = "source " + std::to_string(s) + " of the blend",
                       .hint = "leaving the source out"});
  }
  shares_ = whole_shares(weights);
  const int64_t period = std::accumulate(shares_.begin(), shares_.end(), int64_t{0});
  source_.resize(static_cast<size_t>(period));
  before_.resize(static_cast<size_t>(period));
  std::vector<int64_t> count(shares_.size());
  for (int64_t slot = 0; slot < period; ++slot) {
    size_t chosen = shares_.size();
    int64_t earliest = 0;
    for (size_t s = 0; s < shares_.size(); ++s) {
      const bool released = count[s] < shares_[s] && count[s] * period / shares_[s] <= slot;
      if (!released) continue;
      const int64_t deadline = ((count[s] + 1) * period + shares_[s] - 1) / shares_[s];
      if (chosen == shares_.size() || deadline < earliest) {
        chosen = s;
        earliest = deadline;
      }
    }
    TRIREME_CHECK(chosen < shares_.size() && slot < earliest, "a source of the blend missed its share");
    source_[static_cast<size_t>(slot)] = static_cast<uint16_t>(chosen);
    before_[static_cast<size_t>(slot)] = static_cast<uint32_t>(count[chosen]++);
  }
}

Blend::Pick Blend::at(int64_t sample) const {
  TRIREME_CHECK(sample >= 0);
  const int64_t round = sample / period();
  const auto slot = static_cast<size_t>(sample % period());
  const int source = source_[slot];
  return {source, round * share(source) + static_cast<int64_t>(before_[slot])};
}

}  // namespace trireme
