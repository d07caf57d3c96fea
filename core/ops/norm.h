// Layer norm and RMS norm over the last dim, with the residual add that precedes them fused in.
//
// x, y [N, C] and weight, bias [C] share a dtype (f32 or bf16); statistics are f32 [N] and computed in fp32.
//   RMS:   y = x · rstd · weight,               rstd = 1/√(mean(x²) + eps)
//   layer: y = (x − mean) · rstd · weight + bias, rstd = 1/√(var(x) + eps), biased variance
// A tensor `bias`/`mean` that is undefined selects RMS norm. (Zhang & Sennrich 2019; Ba et al. 2016)
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

struct NormStats {
  Tensor mean;  // f32 [N], undefined for RMS norm
  Tensor rstd;  // f32 [N]
};

// Fills `y` and `stats` (already allocated).
void norm_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, Tensor& y,
                  NormStats& stats);

// sum = a + b (rounded to the dtype), then y = norm(sum). `sum` may alias `a`.
void add_norm_forward(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias,
                      float eps, Tensor& sum, Tensor& y, NormStats& stats);

// dx = residual + d norm/dx · dy. `residual`, the gradient that the residual connection carries, may be undefined (0) or
// alias dx.
// dweight, dbias f32 [C] are overwritten (dbias undefined for RMS norm). Rows are summed in blocks of fixed size, so
// the bits do not depend on the number of threads.
void norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const NormStats& stats,
                   const Tensor& residual, Tensor& dx, Tensor& dweight, Tensor& dbias);

// RMS norm of every query and key head (Qwen3), in one pass over a packed qkv [N, (H + 2·KV)·D]; values are copied.
// q_weight, k_weight [D]; rstd f32 [N, H + KV]. `out` must not alias `qkv`.
void qk_norm_forward(Stream& stream, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     int64_t num_heads, int64_t num_kv_heads, float eps, Tensor& out, Tensor& rstd);

// In place on dqkv: the gradient of `out` becomes that of `qkv`. dq_weight, dk_weight f32 [D] are overwritten.
void qk_norm_backward(Stream& stream, Tensor& dqkv, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                      const Tensor& rstd, int64_t num_heads, int64_t num_kv_heads, Tensor& dq_weight,
                      Tensor& dk_weight);

}  // namespace trireme::ops
