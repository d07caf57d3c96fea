#include "models/loss_head.h"

#include <algorithm>

#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"

namespace trireme {

namespace {

enum Slot : int { kGradInput };

// Bound of the logits of one chunk. Each further chunk reads and writes the gradient of the whole table once more, so
// chunks are as large as memory allows comfortably.
constexpr int64_t kCpuChunkBytes = int64_t{256} << 20;
constexpr int64_t kGpuChunkBytes = int64_t{2} << 30;
constexpr int64_t kChunkMultiple = 64;  // tokens

}  // namespace

LossHead::Chunks LossHead::chunks(DeviceType device, DType compute, int64_t num_tokens, int64_t vocab) {
  const bool gpu = device == DeviceType::cuda;
  const DType dtype = gpu ? compute : DType::f32;
  const int64_t bound = gpu ? kGpuChunkBytes : kCpuChunkBytes;
  const int64_t fit = std::max<int64_t>(1, bound / (vocab * dtype_bytes(dtype)));
  if (fit >= num_tokens) return {num_tokens, dtype};
  return {std::max(kChunkMultiple, fit / kChunkMultiple * kChunkMultiple), dtype};
}

std::vector<Weight*> LossHead::weights() {
  std::vector<Weight*> list;
  norm_.list_weights(list);
  list.push_back(table_);
  return list;
}

Tensor LossHead::forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) {
  const int64_t num_tokens = x.dim(0);
  const int64_t vocab = table_->value.dim(0);
  const bool gradients = microbatch.with_gradients;
  ops::NormStats stats;
  const Tensor normed = norm_.forward(stream, x, stats);
  Tensor dnormed = gradients ? Tensor::empty(stream, x.shape(), x.dtype()) : Tensor{};
  Tensor losses = Tensor::empty(stream, {num_tokens}, DType::f32);
  const Chunks cut = chunks(stream.device().type, x.dtype(), num_tokens, vocab);
  const int64_t chunk = cut.tokens;
  for (int64_t begin = 0; begin < num_tokens; begin += chunk) {
    const int64_t end = std::min(begin + chunk, num_tokens);
    const Tensor x_chunk = normed.slice(begin, end);
    Tensor logits = Tensor::empty(stream, {end - begin, vocab}, cut.dtype, MemoryTag::workspace);
    ops::linear_forward(stream, x_chunk, table_->value, {}, logits);
    Tensor dlogits;
    if (gradients) {
      dlogits =
          x.dtype() == cut.dtype ? logits : Tensor::empty(stream, logits.shape(), x.dtype(), MemoryTag::workspace);
    }
    Tensor chunk_losses = losses.slice(begin, end);
    ops::cross_entropy(stream, logits, microbatch.labels.slice(begin, end), {0, vocab}, {}, microbatch.grad_scale,
                       chunk_losses, dlogits);
    if (!gradients) continue;
    Tensor no_bias;
    ops::linear_backward_weight(stream, dlogits, x_chunk, table_->gradient, no_bias, table_->accumulate_gradient());
    Tensor dx_chunk = dnormed.slice(begin, end);
    ops::linear_backward_input(stream, dlogits, table_->value, dx_chunk, /*accumulate=*/false);
  }
  Tensor loss_sum = microbatch.loss_sum;
  ops::sum(stream, losses, loss_sum, /*accumulate=*/true);
  if (gradients) {
    Tensor dx;
    norm_.backward_weight(stream, norm_.backward_input(stream, dnormed, x, stats, /*residual=*/{}, dx));
    stash.put(kGradInput, dx);
  }
  return {};
}

Tensor LossHead::backward_input(Stream&, const Microbatch&, const Tensor&, Stash& stash) {
  return stash.take(kGradInput);
}

Tensor LossHead::logits(Stream& stream, const Tensor& x) const {
  ops::NormStats stats;
  const Tensor normed = norm_.forward(stream, x, stats);
  Tensor logits = Tensor::empty(stream, {x.dim(0), table_->value.dim(0)}, DType::f32, MemoryTag::workspace);
  ops::linear_forward(stream, normed, table_->value, {}, logits);
  return logits;
}

}  // namespace trireme
