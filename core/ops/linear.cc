#include "core/ops/linear.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

// x [N, in], weight [out, in], bias [out] or undefined, y [N, out] of x's dtype or, where allowed, f32.
void check_forward(const Stream& stream, std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const Tensor& y, bool may_widen) {
  check_float_matrix(stream, op, "x", x);
  check_float_matrix(stream, op, "weight", weight);
  check_tensor(stream, op, "weight", weight, x.dtype(), {weight.dim(0), x.dim(1)});
  if (bias.defined()) check_tensor(stream, op, "bias", bias, x.dtype(), {weight.dim(0)});
  const DType y_dtype = may_widen && y.dtype() == DType::f32 ? DType::f32 : x.dtype();
  check_tensor(stream, op, "y", y, y_dtype, {x.dim(0), weight.dim(0)});
}

}  // namespace

void linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
  check_forward(stream, "linear_forward", x, weight, bias, y, /*may_widen=*/true);
  TRIREME_DISPATCH(stream, linear_forward(stream, x, weight, bias, y));
}

void linear_add_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& residual, Tensor& y) {
  check_forward(stream, "linear_add_forward", x, weight, bias, y, /*may_widen=*/false);
  check_tensor(stream, "linear_add_forward", "residual", residual, y.dtype(), y.shape());
  TRIREME_DISPATCH(stream, linear_add_forward(stream, x, weight, bias, residual, y));
}

void linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, Tensor& dx, bool accumulate) {
  check_float_matrix(stream, "linear_backward_input", "dy", dy);
  check_float_matrix(stream, "linear_backward_input", "weight", weight);
  check_tensor(stream, "linear_backward_input", "weight", weight, dy.dtype(), {dy.dim(1), weight.dim(1)});
  check_tensor(stream, "linear_backward_input", "dx", dx, dy.dtype(), {dy.dim(0), weight.dim(1)});
  TRIREME_DISPATCH(stream, linear_backward_input(stream, dy, weight, dx, accumulate));
}

void linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, Tensor& dweight, Tensor& dbias,
                            bool accumulate) {
  check_float_matrix(stream, "linear_backward_weight", "dy", dy);
  check_float_matrix(stream, "linear_backward_weight", "x", x);
  check_tensor(stream, "linear_backward_weight", "x", x, dy.dtype(), {dy.dim(0), x.dim(1)});
  check_float(stream, "linear_backward_weight", "dweight", dweight, {dy.dim(1), x.dim(1)});
  if (dbias.defined()) check_tensor(stream, "linear_backward_weight", "dbias", dbias, dweight.dtype(), {dy.dim(1)});
  TRIREME_DISPATCH(stream, linear_backward_weight(stream, dy, x, dweight, dbias, accumulate));
}

bool linear_gelu_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Gelu kind,
                         Tensor& up, Tensor& y) {
  check_forward(stream, "linear_gelu_forward", x, weight, bias, up, /*may_widen=*/false);
  check_tensor(stream, "linear_gelu_forward", "y", y, x.dtype(), up.shape());
  bool keep_y = false;
  TRIREME_DISPATCH(stream, linear_gelu_forward(stream, x, weight, bias, kind, up, y, keep_y));
  return keep_y;
}

void linear_gelu_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& up, Gelu kind,
                                Tensor& dup) {
  check_float_matrix(stream, "linear_gelu_backward_input", "dy", dy);
  check_float_matrix(stream, "linear_gelu_backward_input", "weight", weight);
  check_tensor(stream, "linear_gelu_backward_input", "weight", weight, dy.dtype(), {dy.dim(1), weight.dim(1)});
  check_tensor(stream, "linear_gelu_backward_input", "up", up, dy.dtype(), {dy.dim(0), weight.dim(1)});
  check_tensor(stream, "linear_gelu_backward_input", "dup", dup, dy.dtype(), up.shape());
  TRIREME_CHECK(dup.raw() != up.raw() || up.numel() == 0, "linear_gelu_backward_input: dup must not alias up");
  TRIREME_DISPATCH(stream, linear_gelu_backward_input(stream, dy, weight, up, kind, dup));
}

}  // namespace trireme::ops
