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

void adamw_update(Stream& stream, const AdamW& options, const UpdateScalars& scalars, const Tensor& ranges,
                  const Tensor& grad, AdamWTensors& state) {
  TRIREME_CHECK(options.step >= 1, "adamw_update: steps count from 1");
  TRIREME_CHECK(state.master.defined() || state.weight.defined(), "adamw_update: no weights");
  const Shape flat{grad.numel()};
  check_scalars(stream, "adamw_update", scalars);
  check_tensor(stream, "adamw_update", "ranges", ranges, DType::i64, {ranges.shape()[0], kUpdateRangeColumns});
  check_float(stream, "adamw_update", "grad", grad, flat);
  check_float(stream, "adamw_update", "m", state.m, flat);
  check_tensor(stream, "adamw_update", "v", state.v, state.m.dtype(), flat);
  if (state.master.defined()) check_tensor(stream, "adamw_update", "master", state.master, DType::f32, flat);
  if (state.weight.defined()) check_tensor(stream, "adamw_update", "weight", state.weight, DType::bf16, flat);
  for (const void* data : {grad.raw(), state.m.raw(), state.v.raw(), state.master.raw(), state.weight.raw()}) {
    TRIREME_CHECK(reinterpret_cast<uintptr_t>(data) % 16 == 0, "adamw_update: not at a 16-byte boundary");
  }
  TRIREME_DISPATCH(stream, adamw_update(stream, options, scalars, ranges, grad, state));
}

}  // namespace trireme::ops
