// AdamW (Loshchilov & Hutter 2019) and global-norm clipping, in one pass over a whole bucket or a part of one.
//
// Everything is computed in fp32, whatever is stored. What is stored in bf16 with no wider copy beside it is rounded
// stochastically: up or down with the probabilities that make the mean right (math.h, round_stochastic). Rounded to
// nearest, a weight of 1 would not move by a step below 2⁻⁹, and a moment with a beta near 1 would stand still. The
// draws are a pure function of (seed, step, parameter, element, which of the three): the same whatever the layout.
#pragma once

#include "core/ops/update_range.h"
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
  float weight_decay = 0;  // decoupled: w −= lr·decay·w, in the ranges that decay
  int64_t step = 1;        // of this update, from 1 on: bias correction and draws
};

// What an update moves, each [n]. At least one of master and weight is defined:
//   master alone      fp32 weights;
//   master and weight the weight is the master rounded to nearest;
//   weight alone      the weight is read, moved in fp32 and rounded stochastically.
struct AdamWTensors {
  Tensor master = {};  // f32 or undefined
  Tensor weight = {};  // bf16 or undefined
  Tensor m = {};       // f32 or bf16
  Tensor v = {};       // of m's dtype; both are used for the weight before they are rounded
};

// For each element of a range: g = grad·clip_factor; m = β1·m + (1−β1)·g; v = β2·v + (1−β2)·g²;
// w −= lr·(m̂/(√v̂ + eps) + decay·w). Elements outside every range are left alone. Does nothing when
// scalars.non_finite is set. An element gets the same bits however a bucket is cut into calls.
//
// ranges: i64 [R, 8] on the device, rows of UpdateRange (update_range.h) in ascending order without overlap.
// grad f32 or bf16 [n]. All tensors begin at a 16-byte boundary: cut a bucket at multiples of 8.
void adamw_update(Stream& stream, const AdamW& options, const UpdateScalars& scalars, const Tensor& ranges,
                  const Tensor& grad, AdamWTensors& state);

}  // namespace trireme::ops
