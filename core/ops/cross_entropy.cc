#include "core/ops/cross_entropy.h"

#include "core/ops/check.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, float grad_scale, Tensor& losses,
                   Tensor& dlogits) {
  check_float_matrix(stream, "cross_entropy", "logits", logits);
  check_tensor(stream, "cross_entropy", "logits", logits, DType::f32, logits.shape());
  check_tensor(stream, "cross_entropy", "labels", labels, DType::i32, {logits.dim(0)});
  check_tensor(stream, "cross_entropy", "losses", losses, DType::f32, {logits.dim(0)});
  if (dlogits.defined()) {
    check_float_matrix(stream, "cross_entropy", "dlogits", dlogits);
    check_tensor(stream, "cross_entropy", "dlogits", dlogits, dlogits.dtype(), logits.shape());
  }
  TRIREME_DISPATCH(stream, cross_entropy(stream, logits, labels, grad_scale, losses, dlogits));
}

}  // namespace trireme::ops
