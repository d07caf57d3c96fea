#include "launcher/microbatch.h"

#include <vector>

#include "core/ops/cross_entropy.h"
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

void add_ahead(Stream& stream, const HostMicrobatch& host, int64_t num_predictors, Microbatch& microbatch) {
  const int64_t num_tokens = host.batch * host.sequence;
  std::vector<int32_t> tokens(static_cast<size_t>(num_tokens));
  std::vector<int32_t> labels(static_cast<size_t>(num_tokens));
  for (int64_t k = 1; k <= num_predictors; ++k) {
    for (int64_t i = 0; i < num_tokens; ++i) {
      const bool behind_end = i % host.sequence + k >= host.sequence;
      const bool other_document =
          !behind_end && host.document_start != nullptr && host.document_start[i] != host.document_start[i + k];
      const bool inside = !behind_end && !other_document;
      tokens[static_cast<size_t>(i)] = inside ? host.tokens[i + k] : 0;
      labels[static_cast<size_t>(i)] = inside ? host.labels[i + k] : ops::kIgnoredLabel;
    }
    Microbatch::Ahead& ahead = microbatch.ahead.emplace_back();
    ahead.tokens = Tensor::empty(stream, {num_tokens}, DType::i32);
    ahead.labels = Tensor::empty(stream, {num_tokens}, DType::i32);
    ops::copy_from_host(stream, tokens.data(), ahead.tokens);
    ops::copy_from_host(stream, labels.data(), ahead.labels);
  }
}

}  // namespace trireme
