// A random order of n things without a table: a keyed bijection of [0, n) that gives any element at once.
//
// A Feistel network of Philox rounds permutes the smallest even-bit domain that holds n; a value that falls
// outside [0, n) is sent through again until it falls inside ("cycle walking"; Black and Rogaway, "Ciphers
// with arbitrary finite domains", CT-RSA 2002). The domain is less than 4n, so that takes under 4 turns on
// average.
// Thread safety: const.
#pragma once

#include <cstdint>

namespace trireme {

class Permutation {
 public:
  // REQUIRES: 1 <= n <= 2^62.
  Permutation(int64_t n, uint64_t key);

  int64_t size() const { return static_cast<int64_t>(n_); }
  // REQUIRES: 0 <= i < n.
  int64_t operator()(int64_t i) const;

 private:
  uint64_t n_;
  uint64_t key_;
  int half_bits_;
};

}  // namespace trireme
