#include "tests/parallel/layouts_draw.h"

#include <algorithm>
#include <cstdlib>

#include "core/config/load.h"
#include "core/random/philox.h"
#include "launcher/shrink.h"
#include "parallel/resolve.h"
#include "tests/parallel/layouts_numbers.h"

namespace trireme::layouts {

namespace {

struct Requirement {
  int feature;
  int level;  // of it …
  int needs;  // … another feature
  int mask;   // in one of these levels, as bits
};

constexpr int kAbove1 = 0b110;
constexpr Requirement kRequirements[] = {
    {kSequence, 1, kTensor, kAbove1}, {kOverlapTensor, 1, kTensor, kAbove1},  {kZeroGroup, 1, kData, 0b100},
    {kZeroGroup, 1, kZero, 0b1110},   {kMicrobatches, 2, kPipeline, kAbove1}, {kSplit, 1, kPipeline, kAbove1},
    {kSplit, 2, kPipeline, kAbove1},  {kKvHeads, 1, kFamily, 0b1110},
};

// The levels of every feature that may stand beside these two, as bits.
std::array<int, kNumFeatures> allowed_beside(int f, int a, int g, int b) {
  std::array<int, kNumFeatures> allowed;
  for (size_t i = 0; i < allowed.size(); ++i) allowed[i] = (1 << kLevels[i]) - 1;
  allowed[static_cast<size_t>(f)] &= 1 << a;
  allowed[static_cast<size_t>(g)] &= 1 << b;
  for (const Requirement& r : kRequirements) {
    const bool holds = (r.feature == f && r.level == a) || (r.feature == g && r.level == b);
    if (holds) allowed[static_cast<size_t>(r.needs)] &= r.mask;
  }
  return allowed;
}

bool legal(const Levels& levels) {
  return std::all_of(std::begin(kRequirements), std::end(kRequirements), [&](const Requirement& r) {
    return levels[static_cast<size_t>(r.feature)] != r.level ||
           ((1 << levels[static_cast<size_t>(r.needs)]) & r.mask) != 0;
  });
}

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Candidate {
  Levels levels{};
  bool full = false;  // kMaxRanks ranks
};

// Covers the pairs of one block, by changing one level of one layout at a time for as long as something is missing.
class Covering {
 public:
  explicit Covering(uint64_t key) : random_(key) {
    for (int f = 0; f < kNumFeatures; ++f)
      offsets_[static_cast<size_t>(f) + 1] = offset(f) + kLevels[static_cast<size_t>(f)];
    const auto values = static_cast<size_t>(offsets_.back());
    counts_.assign(values * values, 0);
    needed_.assign(values * values, 0);
    for (int f = 0; f < kNumFeatures; ++f) {
      for (int g = f + 1; g < kNumFeatures; ++g) {
        for (int a = 0; a < kLevels[static_cast<size_t>(f)]; ++a) {
          for (int b = 0; b < kLevels[static_cast<size_t>(g)]; ++b) {
            if (!legal_pair(f, a, g, b)) continue;
            needed_[place(f, a, g, b)] = kPairs;
            missing_pairs_ += kPairs;
          }
        }
      }
    }
  }

  std::vector<Candidate> cover() {
    start();
    for (int64_t attempt = 0; attempt < 2000000 && cost() > 0; ++attempt) improve();
    return block_;
  }

 private:
  int offset(int f) const { return offsets_[static_cast<size_t>(f)]; }
  size_t place(int f, int a, int g, int b) const {
    return static_cast<size_t>(offset(f) + a) * static_cast<size_t>(offsets_.back()) +
           static_cast<size_t>(offset(g) + b);
  }

  // Schedule × ZeRO stage × family are the tightest: they are laid out by hand, and stay.
  void start() {
    for (int i = 0; i < kBlock; ++i) {
      Candidate c;
      do {
        for (size_t f = 0; f < c.levels.size(); ++f) c.levels[f] = random_.below(kLevels[f]);
        c.levels[kSchedule] = i % 5;
        c.levels[kZero] = i / 5 % 4;
        c.levels[kFamily] = (i / 20 + i / 5 % 4 + i % 5) % 4;
      } while (!legal(c.levels));
      block_.push_back(c);
      add(c);
    }
  }

  void improve() {
    Candidate& c = block_[static_cast<size_t>(random_.below(kBlock))];
    Candidate next = c;
    const int f = random_.below(kNumFeatures + 1);
    if (f == kNumFeatures) {
      next.full = !next.full;
    } else if (f == kSchedule || f == kZero || f == kFamily) {
      return;
    } else {
      next.levels[static_cast<size_t>(f)] = random_.below(kLevels[static_cast<size_t>(f)]);
    }
    if (!legal(next.levels) || (next.full && !can_be_full(next.levels))) return;
    const int before = cost();
    exchange(c, next, f);
    if (cost() <= before) {
      c = next;
    } else {
      exchange(next, c, f);
    }
  }

  // Counts `to` in place of `from`, which differs in feature f only (kNumFeatures: in none).
  void exchange(const Candidate& from, const Candidate& to, int f) {
    for (int g = 0; g < kNumFeatures && f < kNumFeatures; ++g) {
      if (g == f) continue;
      add_pair(from.levels, std::min(f, g), std::max(f, g), -1);
      add_pair(to.levels, std::min(f, g), std::max(f, g), 1);
    }
    add_sums(from, -1);
    add_sums(to, 1);
  }

  void add(const Candidate& c) {
    for (int f = 0; f < kNumFeatures; ++f) {
      for (int g = f + 1; g < kNumFeatures; ++g) add_pair(c.levels, f, g, 1);
    }
    add_sums(c, 1);
  }

  void add_pair(const Levels& l, int f, int g, int n) {
    const size_t at = place(f, l[static_cast<size_t>(f)], g, l[static_cast<size_t>(g)]);
    missing_pairs_ -= std::max(0, needed_[at] - counts_[at]);
    counts_[at] += n;
    missing_pairs_ += std::max(0, needed_[at] - counts_[at]);
  }

  void add_sums(const Candidate& c, int n) {
    const Levels& l = c.levels;
    three_axes_ += n * (l[kData] > 0 && l[kTensor] > 0 && l[kPipeline] > 0);
    full_ += n * c.full;
    tied_pipeline_zero_ += n * (l[kTied] == 1 && l[kPipeline] > 0 && l[kZero] >= 2);
    exact_ += n * (l[kPrecision] == 0);
  }

  int cost() const {
    return missing_pairs_ + std::max(0, kThreeAxes - three_axes_) + std::max(0, kFullRanks - full_) +
           std::max(0, kTiedPipelineZero - tied_pipeline_zero_) + std::max(0, kExact - exact_);
  }

  Random random_;
  std::array<int, kNumFeatures + 1> offsets_{};
  std::vector<int> counts_;  // of pairs of values, the lower feature first
  std::vector<int> needed_;
  std::vector<Candidate> block_;
  int missing_pairs_ = 0;
  int three_axes_ = 0;
  int full_ = 0;
  int tied_pipeline_zero_ = 0;
  int exact_ = 0;
};

}  // namespace

const char* feature_name(int feature) {
  static constexpr std::array<const char*, kNumFeatures> kNames = {"data",
                                                                   "tensor",
                                                                   "pipeline",
                                                                   "schedule",
                                                                   "zero",
                                                                   "family",
                                                                   "sequence",
                                                                   "microbatches",
                                                                   "zero_group",
                                                                   "keep_gathered",
                                                                   "prefetch",
                                                                   "recompute",
                                                                   "tied",
                                                                   "kv_heads",
                                                                   "vocabulary",
                                                                   "length",
                                                                   "precision",
                                                                   "overlap_grad_reduce",
                                                                   "overlap_param_gather",
                                                                   "overlap_tensor",
                                                                   "split",
                                                                   "documents",
                                                                   "clip"};
  return kNames[static_cast<size_t>(feature)];
}

bool legal_pair(int f, int a, int g, int b) {
  const auto allowed = allowed_beside(f, a, g, b);
  return std::all_of(allowed.begin(), allowed.end(), [](int mask) { return mask != 0; });
}

std::string Draw::command() const {
  std::string out = "build/trireme verify tests/parallel/layouts.yaml --no-shrink";
  for (const std::string& set : sets) out += " --set '" + set + "'";
  return out;
}

std::vector<Draw> draw_layouts(uint64_t seed, int count) {
  std::vector<Draw> draws;
  for (int block = 0; static_cast<int>(draws.size()) < count; ++block) {
    const uint64_t key = random_key(seed, "block " + std::to_string(block));
    for (const Candidate& c : Covering(key).cover()) {
      if (static_cast<int>(draws.size()) == count) break;
      Random random(random_key(key, "numbers " + std::to_string(draws.size())));
      draws.push_back({c.levels, exact_numbers(c.levels, c.full, random)});
    }
  }
  return draws;
}

uint64_t seed_of_draws(uint64_t otherwise) { return from_environment("TRIREME_LAYOUT_SEED", otherwise); }

int num_draws(int otherwise, int all) {
  const int usual = std::getenv("TRIREME_TEST_ALL") != nullptr ? all : otherwise;
  return static_cast<int>(from_environment("TRIREME_LAYOUT_COUNT", static_cast<uint64_t>(usual)));
}

Config config_of(const Draw& draw) {
  Config config = load_config(std::string(TRIREME_SOURCE_DIR) + "/tests/parallel/layouts.yaml", draw.sets);
  resolve(config, num_ranks(config.parallel), 0, num_ranks(config.parallel));
  return config;
}

}  // namespace trireme::layouts
