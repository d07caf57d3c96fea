#include "core/ops/cross_entropy.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& grad_scale, Tensor& losses,
                   Tensor& dlogits) {
  check_float_matrix(stream, "cross_entropy", "logits", logits);
  check_tensor(stream, "cross_entropy", "labels", labels, DType::i32, {logits.dim(0)});
  check_tensor(stream, "cross_entropy", "losses", losses, DType::f32, {logits.dim(0)});
  if (dlogits.defined()) {
    check_float_matrix(stream, "cross_entropy", "dlogits", dlogits);
    check_tensor(stream, "cross_entropy", "dlogits", dlogits, dlogits.dtype(), logits.shape());
    check_tensor(stream, "cross_entropy", "grad_scale", grad_scale, DType::f32, {1});
  }
  TRIREME_DISPATCH(stream, cross_entropy(stream, logits, labels, grad_scale, losses, dlogits));
}

void inverse_count(Stream& stream, const Tensor& count, Tensor& scale) {
  check_tensor(stream, "inverse_count", "count", count, DType::i64, {1});
  check_tensor(stream, "inverse_count", "scale", scale, DType::f32, {1});
  TRIREME_DISPATCH(stream, inverse_count(stream, count, scale));
}

}  // namespace trireme::ops
