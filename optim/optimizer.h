// The optimizer: one global gradient norm, clipping, and a fused update of every bucket.
#pragma once

#include <vector>

#include "core/config/config.h"
#include "core/ops/adamw.h"
#include "parallel/zero/bucket.h"

namespace trireme {

class Optimizer {
 public:
  // The buckets outlive the optimizer and have optimizer states. `seed` is that of the run: it selects the draws of
  // stochastic rounding (core/ops/adamw.h).
  Optimizer(Stream& stream, const OptimizerConfig& config, uint64_t seed, std::vector<Bucket*> buckets);

  // Updates weights and states from the reduced gradients. `update` counts from 1; `loss` f64 [1] is looked at for
  // NaN and Inf only. When the norm or the loss is not finite nothing changes, in this update or any later one.
  // The host does not wait for the device.
  void update(Stream& stream, double learning_rate, int64_t update, const Tensor& loss);

  // Sticky flag and norm of the last update, f32 [1] and i32 [1] on the device.
  const ops::UpdateScalars& scalars() const { return scalars_; }

 private:
  OptimizerConfig config_;
  std::vector<Bucket*> buckets_;
  std::vector<Tensor> ranges_;  // of each bucket, i64 [parameters, 5] (core/ops/update_range.h)
  Tensor sum_squares_;          // f64 [1]
  ops::UpdateScalars scalars_;
};

}  // namespace trireme
