#include "parallel/tensor_products.h"

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"

namespace trireme {

Tensor gather_linear(Stream& stream, const TensorGroup& group, const Tensor& x, int64_t num_tokens,
                     const Tensor& weight, const Tensor& bias) {
  const Tensor y = Tensor::empty(stream, {num_tokens, weight.dim(0)}, x.dtype());
  group.gather(stream, x, num_tokens, [&](int64_t begin, int64_t end, Tensor& rows) {
    Tensor out = y.slice(begin, end);
    ops::linear_forward(stream, rows, weight, bias, out);
  });
  return y;
}

Tensor gather_linear_backward(Stream& stream, const TensorGroup& group, const Tensor& dy, const Tensor& weight) {
  return group.reduce(stream, dy.dim(0), weight.dim(1), dy.dtype(), [&](int64_t begin, int64_t end, Tensor& rows) {
    ops::linear_backward_input(stream, dy.slice(begin, end), weight, rows, /*accumulate=*/false);
  });
}

Tensor linear_reduce(Stream& stream, const TensorGroup& group, const Tensor& x, const Tensor& weight,
                     const Tensor& bias, const Tensor& residual) {
  const bool in_product = residual.defined() && group.size() == 1;
  Tensor y = group.reduce(stream, x.dim(0), weight.dim(0), x.dtype(), [&](int64_t begin, int64_t end, Tensor& rows) {
    if (in_product) {
      ops::linear_add_forward(stream, x.slice(begin, end), weight, bias, residual.slice(begin, end), rows);
    } else {
      ops::linear_forward(stream, x.slice(begin, end), weight, bias, rows);
    }
  });
  if (residual.defined() && !in_product) ops::add(stream, y, residual, y);
  return y;
}

Tensor linear_reduce_backward(Stream& stream, const TensorGroup& group, const Tensor& dy, int64_t num_tokens,
                              const Tensor& weight, Tensor& whole_dy) {
  const Tensor dx = Tensor::empty(stream, {num_tokens, weight.dim(1)}, dy.dtype());
  whole_dy = group.gather(stream, dy, num_tokens, [&](int64_t begin, int64_t end, Tensor& rows) {
    Tensor out = dx.slice(begin, end);
    ops::linear_backward_input(stream, rows, weight, out, /*accumulate=*/false);
  });
  return dx;
}

}  // namespace trireme
