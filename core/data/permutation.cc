#include "core/data/permutation.h"

#include <bit>

#include "core/error.h"
#include "core/random/philox.h"

namespace trireme {

namespace {

// Four suffice for secrecy of large domains; small ones (two bits a half) need more to look random.
constexpr uint64_t kRounds = 8;

}  // namespace

Permutation::Permutation(int64_t n, uint64_t key) : n_(static_cast<uint64_t>(n)), key_(key) {
  TRIREME_CHECK(n >= 1 && n <= int64_t{1} << 62);
  half_bits_ = (std::bit_width(n_ - 1) + 1) / 2;
}

int64_t Permutation::operator()(int64_t i) const {
  TRIREME_CHECK(i >= 0 && static_cast<uint64_t>(i) < n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<uint64_t>(i);
  do {
    uint64_t left = x >> half_bits_;
    uint64_t right = x & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (philox4x32(key_, right, round).x[0] & mask);
      left = right;
      right = mixed;
    }
    x = (left << half_bits_) | right;
  } while (x >= n_);
  return static_cast<int64_t>(x);
}

}  // namespace trireme
