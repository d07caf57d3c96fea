// Philox4x32-10, a counter-based random number generator: every draw is a pure function of (key, counter),
// so that any rank can make any element of any tensor without the others.
// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/host_device.h"

namespace trireme {

struct PhiloxBlock {
  uint32_t x[4];
};

// The 128 random bits of block `counter` under `key`; `stream` is a second counter word.
TRIREME_HOST_DEVICE PhiloxBlock philox4x32(uint64_t key, uint64_t counter, uint64_t stream = 0) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter);
  uint32_t c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream);
  uint32_t c3 = static_cast<uint32_t>(stream >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Sixteen of those bits: i in [0, 8), the low half of a word before its high half.
TRIREME_HOST_DEVICE uint32_t half_word(const PhiloxBlock& block, int i) {
  return (block.x[i >> 1] >> (16 * (i & 1))) & 0xFFFFu;
}

// Uniform in [0, 1) with 24 bits.
TRIREME_HOST_DEVICE float uniform_from_bits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// A 64-bit key from a seed and a name (FNV-1a, then SplitMix64's finalizer).
uint64_t random_key(uint64_t seed, std::string_view name);

// Standard normal number `index` of the sequence named by `key` (Box-Muller on block index / 2, in fp64, so
// that the value is the same on every CPU).
double normal_at(uint64_t key, uint64_t index);
// Numbers 2·block and 2·block + 1 of that sequence, for the price of one.
struct NormalPair {
  double even;
  double odd;
};
NormalPair normal_pair_at(uint64_t key, uint64_t block);

// A uniform integer in [0, bound) for (key, counter); bound > 0. Unbiased to 2^-64.
uint64_t uniform_below(uint64_t key, uint64_t counter, uint64_t bound);

}  // namespace trireme
