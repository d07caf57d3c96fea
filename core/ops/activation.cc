#include "core/ops/activation.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

void gelu_forward(Stream& stream, const Tensor& x, Gelu kind, Tensor& y) {
  check_float_matrix(stream, "gelu_forward", "x", x);
  check_tensor(stream, "gelu_forward", "y", y, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, gelu_forward(stream, x, kind, y));
}

void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& x, Gelu kind, Tensor& dx) {
  check_float_matrix(stream, "gelu_backward", "x", x);
  check_tensor(stream, "gelu_backward", "dy", dy, x.dtype(), x.shape());
  check_tensor(stream, "gelu_backward", "dx", dx, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, gelu_backward(stream, dy, x, kind, dx));
}

void swiglu_forward(Stream& stream, const Tensor& gate_up, Tensor& y) {
  check_float_matrix(stream, "swiglu_forward", "y", y);
  check_tensor(stream, "swiglu_forward", "gate_up", gate_up, y.dtype(), {y.dim(0), 2 * y.dim(1)});
  TRIREME_DISPATCH(stream, swiglu_forward(stream, gate_up, y));
}

void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, Tensor& dgate_up) {
  check_float_matrix(stream, "swiglu_backward", "dy", dy);
  const Shape wide{dy.dim(0), 2 * dy.dim(1)};
  check_tensor(stream, "swiglu_backward", "gate_up", gate_up, dy.dtype(), wide);
  check_tensor(stream, "swiglu_backward", "dgate_up", dgate_up, dy.dtype(), wide);
  TRIREME_DISPATCH(stream, swiglu_backward(stream, dy, gate_up, dgate_up));
}

}  // namespace trireme::ops
