// The ops on the CPU, one file each; contracts in core/ops/*.h, whose checks have passed when these are called.
//
// Work is cut by constants of the kernel, never by the number of threads.
#pragma once

#include "core/ops/activation.h"
#include "core/ops/adamw.h"
#include "core/ops/norm.h"
#include "core/tensor/tensor.h"

namespace trireme::cpu {

// activation.cc
void gelu_forward(Stream& stream, const Tensor& x, ops::Gelu kind, Tensor& y);
void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& x, ops::Gelu kind, Tensor& dx);
void swiglu_forward(Stream& stream, const Tensor& gate_up, Tensor& y);
void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, Tensor& dgate_up);

// adamw.cc
void prepare_update(Stream& stream, const Tensor& sum_squares, const Tensor& loss, float max_norm,
                    ops::UpdateScalars& out);
void adamw_update(Stream& stream, const ops::AdamW& options, const ops::UpdateScalars& scalars, const Tensor& grad,
                  Tensor& master, Tensor& m, Tensor& v, Tensor& weight);

// cross_entropy.cc
void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, float grad_scale, Tensor& losses,
                   Tensor& dlogits);

// elementwise.cc
void fill(Stream& stream, Tensor& x, double value);
void copy(Stream& stream, const Tensor& x, Tensor& y);
void cast(Stream& stream, const Tensor& x, Tensor& y);
void add(Stream& stream, const Tensor& a, const Tensor& b, Tensor& y);
void accumulate(Stream& stream, const Tensor& x, Tensor& y, bool accumulate);
void scale(Stream& stream, Tensor& x, float factor);
void sum(Stream& stream, const Tensor& x, Tensor& out, bool accumulate);
void sum_squares(Stream& stream, const Tensor& x, Tensor& out, bool accumulate);
void copy_to_host(Stream& stream, const Tensor& x, void* host);
void copy_from_host(Stream& stream, const void* host, Tensor& x);

// embedding.cc
void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const Tensor& positions,
                       const Tensor& position_table, Tensor& y);
void embedding_backward(Stream& stream, const Tensor& ids, const Tensor& dy, Tensor& dtable, bool accumulate);

// linear.cc
void linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y);
void linear_add_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y);
void linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, Tensor& dx, bool accumulate);
void linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, Tensor& dweight, Tensor& dbias,
                            bool accumulate);

// norm.cc
void norm_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, Tensor& y,
                  ops::NormStats& stats);
void add_norm_forward(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias,
                      float eps, Tensor& sum, Tensor& y, ops::NormStats& stats);
void norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const ops::NormStats& stats,
                   Tensor& dx, bool accumulate_dx, Tensor& dweight, Tensor& dbias);

// qk_norm.cc
void qk_norm_forward(Stream& stream, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     int64_t num_heads, int64_t num_kv_heads, float eps, Tensor& out, Tensor& rstd);
void qk_norm_backward(Stream& stream, Tensor& dqkv, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                      const Tensor& rstd, int64_t num_heads, int64_t num_kv_heads, Tensor& dq_weight,
                      Tensor& dk_weight);

// rotary.cc
void rotary(Stream& stream, Tensor& qkv, const Tensor& positions, const Tensor& table, int64_t num_rotated,
            int64_t head_dim, bool inverse);

}  // namespace trireme::cpu
