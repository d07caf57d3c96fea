// Differences between two things that are measured by turns, on a machine that does other work as well.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace trireme {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

struct MedianInterval {
  double median = 0;
  double low =
      0;  // the true median lies between these two with a probability of 95 % or more, whatever the distribution
  double high = 0;
};

// From order statistics: as many values lie below the true median as heads in that many throws of a coin. With fewer than
// six values the interval is their range, which holds less than 95 %.
inline MedianInterval median_interval(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  double below = 0;                                        // P(at most k heads)
  double exactly = std::pow(0.5, static_cast<double>(n));  // P(k heads)
  size_t k = 0;
  for (; k < n / 2; ++k) {
    below += exactly;
    if (below > 0.025) break;
    exactly *= static_cast<double>(n - k) / static_cast<double>(k + 1);
  }
  const size_t first = k == 0 ? 0 : k - 1;
  return {median(values), values[first], values[n - 1 - first]};
}

}  // namespace trireme
