// AdamW (Loshchilov & Hutter 2019) and global-norm clipping, fused over a flat range of a bucket.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// What the update reads from the device: written by `prepare_update`, never seen by the host in the hot loop.
struct UpdateScalars {
  Tensor clip_factor;  // f32 [1]
  Tensor grad_norm;    // f32 [1], before clipping
  Tensor non_finite;   // i32 [1], sticky: once 1, no update changes any state
};

// From the sum of squares of all gradients (f64 [1]) and the loss (f64 [1]):
//   grad_norm = √sum, clip_factor = min(1, max_norm / (grad_norm + 1e-6)), or 1 where max_norm is 0;
//   non_finite |= the norm or the loss is not finite.
void prepare_update(Stream& stream, const Tensor& sum_squares, const Tensor& loss, float max_norm, UpdateScalars& out);

struct AdamW {
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0;  // decoupled: w −= lr·decay·w
  int64_t step = 1;        // of this update, from 1 on (bias correction)
};

// One pass over n elements: g = grad·clip_factor; m, v updated; master −= lr·(m̂/(√v̂ + eps) + decay·master); then
// `weight`, where defined, = master rounded to bf16. All f32 [n] but weight. Does nothing when scalars.non_finite is
// set.
void adamw_update(Stream& stream, const AdamW& options, const UpdateScalars& scalars, const Tensor& grad,
                  Tensor& master, Tensor& m, Tensor& v, Tensor& weight);

}  // namespace trireme::ops
