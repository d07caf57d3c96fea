#include "core/ops/adamw.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_scalars(const Stream& stream, std::string_view op, const UpdateScalars& scalars) {
  check_tensor(stream, op, "clip_factor", scalars.clip_factor, DType::f32, {1});
  check_tensor(stream, op, "grad_norm", scalars.grad_norm, DType::f32, {1});
  check_tensor(stream, op, "non_finite", scalars.non_finite, DType::i32, {1});
}

}  // namespace

void prepare_update(Stream& stream, const Tensor& sum_squares, const Tensor& loss, float max_norm, UpdateScalars& out) {
  check_tensor(stream, "prepare_update", "sum_squares", sum_squares, DType::f64, {1});
  check_tensor(stream, "prepare_update", "loss", loss, DType::f64, {1});
  check_scalars(stream, "prepare_update", out);
  TRIREME_DISPATCH(stream, prepare_update(stream, sum_squares, loss, max_norm, out));
}

void adamw_update(Stream& stream, const AdamW& options, const UpdateScalars& scalars, const Tensor& grad,
                  Tensor& master, Tensor& m, Tensor& v, Tensor& weight) {
  TRIREME_CHECK(options.step >= 1, "adamw_update: steps count from 1");
  const Shape flat{grad.numel()};
  check_scalars(stream, "adamw_update", scalars);
  check_tensor(stream, "adamw_update", "grad", grad, DType::f32, flat);
  check_tensor(stream, "adamw_update", "master", master, DType::f32, flat);
  check_tensor(stream, "adamw_update", "m", m, DType::f32, flat);
  check_tensor(stream, "adamw_update", "v", v, DType::f32, flat);
  if (weight.defined()) check_tensor(stream, "adamw_update", "weight", weight, DType::bf16, flat);
  TRIREME_DISPATCH(stream, adamw_update(stream, options, scalars, grad, master, m, v, weight));
}

}  // namespace trireme::ops
