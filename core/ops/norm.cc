#include "core/ops/norm.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

// What norm_forward and norm_backward share: x [N, C], weight [C], rstd [N] and, for layer norm, mean [N].
void check_norm(const Stream& stream, std::string_view op, const Tensor& x, const Tensor& weight,
                const NormStats& stats) {
  check_float_matrix(stream, op, "x", x);
  check_tensor(stream, op, "weight", weight, x.dtype(), {x.dim(1)});
  check_tensor(stream, op, "rstd", stats.rstd, DType::f32, {x.dim(0)});
  if (stats.mean.defined()) check_tensor(stream, op, "mean", stats.mean, DType::f32, {x.dim(0)});
}

// The bias decides between layer norm and RMS norm, and the mean must agree.
void check_kind(const Stream& stream, std::string_view op, const Tensor& bias, DType dtype, const Tensor& x,
                const NormStats& stats) {
  TRIREME_CHECK(bias.defined() == stats.mean.defined(), "layer norm has a bias and a mean, RMS norm neither");
  if (bias.defined()) check_tensor(stream, op, "bias", bias, dtype, {x.dim(1)});
}

// Heads of a packed qkv [N, (H + 2·KV)·D] with weights [D] and rstd [N, H + KV].
void check_qk_norm(const Stream& stream, std::string_view op, const Tensor& qkv, const Tensor& q_weight,
                   const Tensor& k_weight, int64_t num_heads, int64_t num_kv_heads, const Tensor& rstd) {
  check_float_matrix(stream, op, "qkv", qkv);
  TRIREME_CHECK(q_weight.ndim() == 1 && num_heads > 0 && num_kv_heads > 0);
  const int64_t head_dim = q_weight.dim(0);
  check_tensor(stream, op, "qkv", qkv, qkv.dtype(), {qkv.dim(0), (num_heads + 2 * num_kv_heads) * head_dim});
  check_tensor(stream, op, "q_weight", q_weight, qkv.dtype(), {head_dim});
  check_tensor(stream, op, "k_weight", k_weight, qkv.dtype(), {head_dim});
  check_tensor(stream, op, "rstd", rstd, DType::f32, {qkv.dim(0), num_heads + num_kv_heads});
}

}  // namespace

void norm_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, Tensor& y,
                  NormStats& stats) {
  check_norm(stream, "norm_forward", x, weight, stats);
  check_kind(stream, "norm_forward", bias, x.dtype(), x, stats);
  check_tensor(stream, "norm_forward", "y", y, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, norm_forward(stream, x, weight, bias, eps, y, stats));
}

void add_norm_forward(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias,
                      float eps, Tensor& sum, Tensor& y, NormStats& stats) {
  check_norm(stream, "add_norm_forward", a, weight, stats);
  check_kind(stream, "add_norm_forward", bias, a.dtype(), a, stats);
  check_tensor(stream, "add_norm_forward", "b", b, a.dtype(), a.shape());
  check_tensor(stream, "add_norm_forward", "sum", sum, a.dtype(), a.shape());
  check_tensor(stream, "add_norm_forward", "y", y, a.dtype(), a.shape());
  TRIREME_DISPATCH(stream, add_norm_forward(stream, a, b, weight, bias, eps, sum, y, stats));
}

void norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const NormStats& stats,
                   const Tensor& residual, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  check_norm(stream, "norm_backward", x, weight, stats);
  check_kind(stream, "norm_backward", dbias, DType::f32, x, stats);
  check_tensor(stream, "norm_backward", "dy", dy, x.dtype(), x.shape());
  if (residual.defined()) check_tensor(stream, "norm_backward", "residual", residual, x.dtype(), x.shape());
  check_tensor(stream, "norm_backward", "dx", dx, x.dtype(), x.shape());
  check_tensor(stream, "norm_backward", "dweight", dweight, DType::f32, {x.dim(1)});
  TRIREME_DISPATCH(stream, norm_backward(stream, dy, x, weight, stats, residual, dx, dweight, dbias));
}

void qk_norm_forward(Stream& stream, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     int64_t num_heads, int64_t num_kv_heads, float eps, Tensor& out, Tensor& rstd) {
  check_qk_norm(stream, "qk_norm_forward", qkv, q_weight, k_weight, num_heads, num_kv_heads, rstd);
  check_tensor(stream, "qk_norm_forward", "out", out, qkv.dtype(), qkv.shape());
  TRIREME_CHECK(out.raw() != qkv.raw() || qkv.numel() == 0, "qk_norm_forward: out must not alias qkv");
  TRIREME_DISPATCH(stream, qk_norm_forward(stream, qkv, q_weight, k_weight, num_heads, num_kv_heads, eps, out, rstd));
}

void qk_norm_backward(Stream& stream, Tensor& dqkv, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                      const Tensor& rstd, int64_t num_heads, int64_t num_kv_heads, Tensor& dq_weight,
                      Tensor& dk_weight) {
  check_qk_norm(stream, "qk_norm_backward", qkv, q_weight, k_weight, num_heads, num_kv_heads, rstd);
  check_tensor(stream, "qk_norm_backward", "dqkv", dqkv, qkv.dtype(), qkv.shape());
  check_tensor(stream, "qk_norm_backward", "dq_weight", dq_weight, DType::f32, q_weight.shape());
  check_tensor(stream, "qk_norm_backward", "dk_weight", dk_weight, DType::f32, q_weight.shape());
  TRIREME_DISPATCH(stream, qk_norm_backward(stream, dqkv, qkv, q_weight, k_weight, rstd, num_heads, num_kv_heads,
                                            dq_weight, dk_weight));
}

}  // namespace trireme::ops
