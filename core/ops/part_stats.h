// What the parts of a vocabulary know of a row of logits, and how that becomes the softmax of the whole; read by the host
// compiler and by a CUDA compiler.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace trireme::ops {

// Of a row of one part: its maximum, Σ e^(x − maximum), and the logit of the label, −∞ where the label isn't in the part.
// A part without entries has {−∞, 0, −∞}.
struct PartStats {
  float max;
  float sum;
  float label_logit;
};
inline constexpr PartStats kNoStats{-INFINITY, 0, -INFINITY};
inline constexpr int64_t kPartStatsColumns = 3;
static_assert(sizeof(PartStats) == kPartStatsColumns * sizeof(float));

// Of a row of the whole vocabulary: its maximum and Σ e^(x − maximum).
struct SoftmaxTotal {
  float max = -INFINITY;
  double sum = 0;
  double label_logit = -INFINITY;

  TRIREME_HOST_DEVICE double log_sum() const { return static_cast<double>(max) + std::log(sum); }
};

// Adds the parts up in their order, `stride` apart: whoever has the same parts gets the same bits. A NaN of any part
// passes.
TRIREME_HOST_DEVICE SoftmaxTotal combine_parts(const PartStats* parts, int64_t num_parts, int64_t stride) {
  SoftmaxTotal total;
  for (int64_t p = 0; p < num_parts; ++p) {
    const float max = parts[p * stride].max;
    total.max = total.max < max ? max : total.max;
  }
  for (int64_t p = 0; p < num_parts; ++p) {
    const PartStats part = parts[p * stride];
    const bool masked = part.max == -INFINITY;  // all of it: the sum is 0, or a NaN
    const double factor = masked ? 1.0 : std::exp(static_cast<double>(part.max) - static_cast<double>(total.max));
    total.sum += static_cast<double>(part.sum) * factor;
    if (!(part.label_logit == -INFINITY)) total.label_logit = static_cast<double>(part.label_logit);
  }
  return total;
}

}  // namespace trireme::ops
