// The same model loaded in two ways must give the same logits: the last step of converting a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/config/config.h"
#include "models/transformer.h"

namespace trireme {

// Largest difference of a logit, relative to the largest logit, that still passes. The same weights in the same dtype give
// exactly 0.
inline constexpr double kLogitTolerance = 1e-4;

struct LogitCheck {
  std::string left_out;  // why nothing was compared; empty: it was
  int64_t num_tokens = 0;
  double largest = 0;   // difference of a logit
  double relative = 0;  // to the largest logit; infinite where one side isn't finite

  bool passed() const { return relative <= kLogitTolerance; }
  std::string str() const;
};

// Fills in the weights of a model on one rank.
using LoadWeights = std::function<void(Stream&, Transformer&)>;

// Logits of random tokens in fp32 on the CPU, from the weights of `a` and then of `b`; with `round_a` those of `a` are
// rounded to bf16 first, as a conversion to bf16 does. One model at a time is in memory. Left out where 4 bytes for each
// parameter are more than half of the available memory.
LogitCheck check_logits(const ModelConfig& config, const LoadWeights& a, const LoadWeights& b, bool round_a);

}  // namespace trireme
