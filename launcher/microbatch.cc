#include "launcher/microbatch.h"

#include "core/ops/elementwise.h"

namespace trireme {

Microbatch upload(Stream& stream, const HostMicrobatch& host, const Tensor& loss_sum, const Tensor& grad_scale) {
  const auto to_device = [&](const int32_t* data) {
    Tensor t = Tensor::empty(stream, {host.batch * host.sequence}, DType::i32);
    ops::copy_from_host(stream, data, t);
    return t;
  };
  Microbatch m;
  m.batch = host.batch;
  m.sequence = host.sequence;
  m.tokens = to_device(host.tokens);
  m.labels = to_device(host.labels);
  m.positions = to_device(host.positions);
  if (host.document_start != nullptr) m.document_start = to_device(host.document_start);
  m.grad_scale = grad_scale;
  m.with_gradients = grad_scale.defined();
  m.loss_sum = loss_sum;
  return m;
}

}  // namespace trireme
