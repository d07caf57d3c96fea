#include "models/loss_head.h"

#include <algorithm>

#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "models/embedding.h"

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
  if (predictor_table_ != nullptr && predictor_table_ != table_) list.push_back(predictor_table_);
  for (const auto& predictor : predictors_) predictor->list_weights(list);
  return list;
}

void LossHead::set_predictors(std::vector<std::unique_ptr<Predictor>> predictors, Weight* table, double coef) {
  predictors_ = std::move(predictors);
  predictor_table_ = table;
  prediction_coef_ = coef;
}

ops::VocabularyPart LossHead::part() const { return vocabulary_part(*table_); }

// [n, rows of the table here], the padding among them.
Tensor LossHead::chunk_logits(Stream& stream, const Tensor& x, DType dtype) const {
  Tensor logits = Tensor::empty(stream, {x.dim(0), table_->value.dim(0)}, dtype, MemoryTag::workspace);
  ops::linear_forward(stream, x, table_->value, {}, logits);
  return logits;
}

// f32 [tensor ranks, n, 3]; undefined where the whole vocabulary is here.
Tensor LossHead::stats_of_all(Stream& stream, const Tensor& logits, const Tensor& labels) const {
  if (tensor_.size() == 1) return {};
  const int64_t n = logits.dim(0);
  Tensor all = Tensor::empty(stream, {tensor_.size(), n, 3}, DType::f32, MemoryTag::workspace);
  Tensor mine = all.slice(tensor_.rank(), tensor_.rank() + 1).view({n, 3});
  ops::cross_entropy_stats(stream, logits, labels, part(), mine);
  tensor_.comm().all_gather(mine, all, stream)->wait(stream);
  return all;
}

Tensor LossHead::cross_entropy(Stream& stream, const Tensor& x, const Loss& loss) {
  const int64_t num_tokens = x.dim(0);
  const bool gradients = loss.grad_scale.defined();
  Tensor dx = gradients ? Tensor::empty(stream, x.shape(), x.dtype()) : Tensor{};
  Tensor losses = Tensor::empty(stream, {num_tokens}, DType::f32);
  const Chunks cut = chunks(stream.device().type, x.dtype(), num_tokens, table_->value.dim(0));
  const int64_t chunk = cut.tokens;
  for (int64_t begin = 0; begin < num_tokens; begin += chunk) {
    const int64_t end = std::min(begin + chunk, num_tokens);
    const Tensor x_chunk = x.slice(begin, end);
    const Tensor logits = chunk_logits(stream, x_chunk, cut.dtype);
    if (loss.logits.defined()) {
      Tensor place = loss.logits.slice(begin, end);
      cut.dtype == DType::f32 ? ops::copy(stream, logits, place) : ops::cast(stream, logits, place);
    }
    Tensor dlogits;
    if (gradients) {
      dlogits =
          x.dtype() == cut.dtype ? logits : Tensor::empty(stream, logits.shape(), x.dtype(), MemoryTag::workspace);
    }
    const Tensor labels = loss.labels.slice(begin, end);
    Tensor chunk_losses = losses.slice(begin, end);
    ops::cross_entropy(stream, logits, labels, part(), stats_of_all(stream, logits, labels), loss.grad_scale,
                       chunk_losses, dlogits);
    if (!gradients) continue;
    Tensor no_bias;
    ops::linear_backward_weight(stream, dlogits, x_chunk, table_->gradient, no_bias, table_->accumulate_gradient());
    Tensor dx_chunk = dx.slice(begin, end);
    ops::linear_backward_input(stream, dlogits, table_->value, dx_chunk, /*accumulate=*/false);
  }
  Tensor sum = loss.sum;
  ops::sum(stream, losses, sum, /*accumulate=*/true);
  return dx;
}

Tensor LossHead::norm_and_loss(Stream& stream, NormLayer& norm, const Tensor& hidden, const Loss& loss) {
  ops::NormStats stats;
  const Tensor normed = tensor_.gather(stream, norm.forward(stream, hidden, stats), loss.labels.dim(0));
  const Tensor dnormed = cross_entropy(stream, normed, loss);
  if (!dnormed.defined()) return {};
  Tensor dx;
  norm.backward_weight(
      stream, norm.backward_input(stream, tensor_.reduce(stream, dnormed), hidden, stats, /*residual=*/{}, dx));
  return dx;
}

Tensor LossHead::forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) {
  const bool gradients = microbatch.with_gradients;
  Tensor dx = norm_and_loss(stream, norm_, x,
                            {.labels = microbatch.labels,
                             .grad_scale = gradients ? microbatch.grad_scale : Tensor{},
                             .logits = microbatch.logits,
                             .sum = microbatch.loss_sum});
  if (!gradients) return {};
  if (!predictors_.empty()) dx = predict(stream, microbatch, x, dx);
  stash.put(kGradInput, dx);
  return {};
}

// Each module's hidden states are read by its norm and the next module, so the gradients of its loss wait for those that
// the next one hands down.
Tensor LossHead::predict(Stream& stream, const Microbatch& microbatch, const Tensor& x, const Tensor& dx) {
  TRIREME_CHECK(microbatch.ahead.size() == predictors_.size(), "tokens ahead for other modules");
  Tensor scale = Tensor::empty(stream, {1}, DType::f32, MemoryTag::workspace);
  ops::copy(stream, microbatch.grad_scale, scale);
  ops::scale(stream, scale, static_cast<float>(prediction_coef_ / static_cast<double>(predictors_.size())));
  std::vector<Stash> stashes(predictors_.size());
  std::vector<Tensor> gradients = {dx};  // of what each module reads, and the last one's output
  Tensor hidden = x;
  for (size_t k = 0; k < predictors_.size(); ++k) {
    const Microbatch::Ahead& ahead = microbatch.ahead[k];
    hidden = predictors_[k]->forward(stream, microbatch, ahead.tokens, hidden, stashes[k]);
    gradients.push_back(norm_and_loss(
        stream, predictors_[k]->head_norm(), hidden,
        {.labels = ahead.labels, .grad_scale = scale, .logits = {}, .sum = microbatch.prediction_loss_sum}));
  }
  for (size_t k = predictors_.size(); k-- > 0;) {
    gradients[k] = predictors_[k]->backward(stream, microbatch, microbatch.ahead[k].tokens, gradients[k + 1],
                                            gradients[k], stashes[k]);
  }
  return gradients.front();
}

Tensor LossHead::backward_input(Stream&, const Microbatch&, const Tensor&, Stash& stash) {
  return stash.take(kGradInput);
}

Tensor LossHead::logits(Stream& stream, const Tensor& x) const {
  ops::NormStats stats;
  const Tensor normed = norm_.forward(stream, x, stats);
  const Tensor rows = table_->value.slice(0, part().size);
  Tensor logits = Tensor::empty(stream, {x.dim(0), rows.dim(0)}, DType::f32, MemoryTag::workspace);
  ops::linear_forward(stream, normed, rows, {}, logits);
  return logits;
}

}  // namespace trireme
