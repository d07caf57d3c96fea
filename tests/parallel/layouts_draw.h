// Random legal layouts that cover what can be combined: not by luck, but drawn until every pair of feature values comes
// up. A block of kBlock layouts has each legal pair at least kPairs times, and the quotas below.
//
// A draw is a pure function of (seed, block). Levels are coarse ("3 or more pipeline stages"); the exact numbers are drawn
// after the covering, within the level.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/config/config.h"

namespace trireme::layouts {

enum Feature : int {
  kData,           // 1, 2, more
  kTensor,         // 1, 2, more
  kPipeline,       // 1, 2, more
  kSchedule,       // the schedules; interleaved with two or three virtual stages
  kZero,           // 0 … 3
  kFamily,         // the families
  kSequence,       // sequence parallelism: off, on
  kMicrobatches,   // one, full groups, a ragged last group
  kZeroGroup,      // all, smaller
  kKeepGathered,   // unit, step
  kPrefetch,       // none, some
  kRecompute,      // none, selective, full
  kTied,           // off, on
  kKvHeads,        // as many as heads, fewer
  kVocabulary,     // divides, needs padding
  kLength,         // even, odd
  kPrecision,      // fp32, bf16
  kOverlapReduce,  // off, on
  kOverlapGather,  // off, on
  kOverlapTensor,  // off, on
  kSplit,          // of the layers: even, uneven, given
  kDocuments,      // attention over the whole sequence, inside documents
  kClip,           // off, active
  kNumFeatures,
};
inline constexpr std::array<int, kNumFeatures> kLevels = {3, 3, 3, 5, 4, 4, 2, 3, 2, 2, 2, 3,
                                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 2};
const char* feature_name(int feature);

using Levels = std::array<int, kNumFeatures>;

// Whether a layout may have both values; with f == g and a == b, the one.
bool legal_pair(int f, int a, int g, int b);

inline constexpr int kBlock = 60;
inline constexpr int kPairs = 3;
inline constexpr int kThreeAxes = kBlock / 3;  // layouts with data, tensor and pipeline above 1
inline constexpr int kFullRanks = 10;          // with kMaxRanks ranks
inline constexpr int kMaxRanks = 64;
inline constexpr int kTiedPipelineZero = 15;  // tied, with a pipeline and ZeRO 2 or 3
inline constexpr int kExact = 40;             // in fp32

struct Draw {
  Levels levels{};
  std::vector<std::string> sets;  // over tests/parallel/layouts.yaml

  std::string command() const;  // that runs it again
};

// The first `count` layouts of `seed`.
std::vector<Draw> draw_layouts(uint64_t seed, int count);

// What a test draws: TRIREME_LAYOUT_SEED and TRIREME_LAYOUT_COUNT, or what it says itself; `all` with TRIREME_TEST_ALL.
uint64_t seed_of_draws(uint64_t otherwise);
int num_draws(int otherwise, int all);

// The configuration of a draw, every degree resolved.
Config config_of(const Draw& draw);

// The levels that a configuration has, worked out from its values.
Levels levels_of(const Config& config);

}  // namespace trireme::layouts
