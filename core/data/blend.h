// Which source each sample of a blend comes from, so that after every number of samples i each source s has
// given its share to within one sample: |count_s(i) - w_s i| < 1.
//
// Weights become whole numbers q_s with sum Q (3 : 5 : 2 for 0.3, 0.5, 0.2), and the order of sources repeats
// after Q samples, so that a table of one period answers for any sample at once. Within the period sample
// j of source s must stand in the slots floor(j Q/q_s) … ceil((j+1) Q/q_s) - 1; that is the bound above, said
// as a release and a deadline. Taking the released sample with the earliest deadline meets all of them
// (Baruah et al., "Proportionate progress", Algorithmica 1996).
// Thread safety: const after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

class Blend {
 public:
  // The longest period. Weights that need a longer one are rounded to multiples of 1 / kMaxPeriod, at least
  // one of them each.
  static constexpr int64_t kMaxPeriod = int64_t{1} << 20;

  // Weights in any unit, up to nine decimals of which count. ConfigError unless every weight is a positive
  // number. REQUIRES: 1 to 65,535 sources.
  explicit Blend(std::span<const double> weights);

  struct Pick {
    int source;
    int64_t index;  // how many samples of this source came before
  };
  // REQUIRES: sample >= 0.
  Pick at(int64_t sample) const;

  int num_sources() const { return static_cast<int>(shares_.size()); }
  int64_t period() const { return static_cast<int64_t>(source_.size()); }
  // Samples of a source in one period.
  int64_t share(int source) const { return shares_[static_cast<size_t>(source)]; }
  double weight(int source) const { return static_cast<double>(share(source)) / static_cast<double>(period()); }

 private:
  std::vector<int64_t> shares_;   // q_s
  std::vector<uint16_t> source_;  // [Q]
  std::vector<uint32_t> before_;  // [Q]: samples of the slot's source in the slots before it
};

}  // namespace trireme
