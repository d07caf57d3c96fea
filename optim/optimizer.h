// The optimizer: clipping by the global gradient norm, and a fused update of this rank's shard of every bucket.
#pragma once

#include <vector>

#include "core/config/config.h"
#include "core/ops/adamw.h"
#include "parallel/zero/bucket.h"

namespace trireme {

class Optimizer {
 public:
  // The buckets outlive the optimizer and have optimizer states; those of buffers are left alone. `seed` is that of the run:
  // it selects the draws of stochastic rounding (core/ops/adamw.h).
  Optimizer(Stream& stream, const OptimizerConfig& config, uint64_t seed, std::vector<Bucket*> buckets);

  // Updates weights and states from the reduced gradients. `update` counts from 1; `sum_squares` f64 [1] is that of all
  // gradients of the world (parallel/zero/gradient_norm.h); `loss` f64 [1] is looked at for NaN and Inf only. When the
  // norm or the loss is not finite nothing changes, in this update or any later one. The host does not wait for the
  // device.
  void update(Stream& stream, double learning_rate, int64_t update, const Tensor& sum_squares, const Tensor& loss);

  // Sticky flag and norm of the last update, f32 [1] and i32 [1] on the device.
  const ops::UpdateScalars& scalars() const { return scalars_; }

 private:
  OptimizerConfig config_;
  std::vector<Bucket*> buckets_;
  std::vector<Tensor> ranges_;  // of each bucket's shard: rows of core/ops/update_range.h
  ops::UpdateScalars scalars_;
};

}  // namespace trireme
