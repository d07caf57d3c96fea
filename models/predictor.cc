#include "models/predictor.h"

#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/row_bytes.h"
#include "models/embedding.h"
#include "models/parameter_names.h"

namespace trireme {

namespace {

enum Slot : int {
  kEmbedding,  // [rows, C]
  kEmbeddingRstd,
  kHidden,  // [rows, C]
  kHiddenRstd,
  kJoined,  // [rows, 2C]
};

constexpr size_t kBlock = 0;  // part of the stash

// [a, b]: [rows, C] each -> [rows, 2C].
Tensor join_columns(Stream& stream, const Tensor& a, const Tensor& b) {
  const int64_t row_bytes = a.dim(1) * dtype_bytes(a.dtype());
  Tensor joined = Tensor::empty(stream, {a.dim(0), 2 * a.dim(1)}, a.dtype());
  ops::copy_row_bytes(stream, a, 0, joined, 0, row_bytes);
  ops::copy_row_bytes(stream, b, 0, joined, row_bytes, row_bytes);
  return joined;
}

// One of the two that were joined.
Tensor half_of_columns(Stream& stream, const Tensor& joined, int64_t which) {
  const int64_t width = joined.dim(1) / 2;
  const int64_t row_bytes = width * dtype_bytes(joined.dtype());
  Tensor half = Tensor::empty(stream, {joined.dim(0), width}, joined.dtype());
  ops::copy_row_bytes(stream, joined, which * row_bytes, half, 0, row_bytes);
  return half;
}

}  // namespace

Predictor::Predictor(const ModelConfig& config, int64_t layer, const Tensor& rotary_table, const TensorGroup& tensor,
                     const MoeSetup& moe, Weight* table)
    : tensor_(tensor), table_(table), block_(config, layer, rotary_table, tensor, moe) {
  const PredictorNames names = ParameterNames(config.family, layer).predictor;
  const int64_t width = config.hidden_size;
  const bool cut = tensor.sequence();
  embedding_norm_ = make_norm(names.embedding_norm, width, config, cut);
  hidden_norm_ = make_norm(names.hidden_norm, width, config, cut);
  Parameter join = make_matrix(names.join, width, 2 * width, config.initializer_range);
  join_.weight = Weight(cut ? partial_over_tensor(std::move(join)) : std::move(join));
  head_norm_ = make_norm(names.head_norm, width, config, cut);
}

void Predictor::list_weights(std::vector<Weight*>& list) {
  embedding_norm_.list_weights(list);
  hidden_norm_.list_weights(list);
  join_.list_weights(list);
  for (Weight* weight : block_.weights()) list.push_back(weight);
  head_norm_.list_weights(list);
}

Tensor Predictor::forward(Stream& stream, const Microbatch& microbatch, const Tensor& tokens, const Tensor& hidden,
                          Stash& stash) {
  Tensor summand = Tensor::empty(stream, {microbatch.num_tokens(), hidden.dim(1)}, hidden.dtype());
  ops::embedding_forward(stream, tokens, table_->value, vocabulary_part(*table_), /*positions=*/{},
                         /*position_table=*/{}, summand);
  const Tensor embedding = tensor_.reduce(stream, summand);
  ops::NormStats embedding_stats;
  ops::NormStats hidden_stats;
  const Tensor joined = join_columns(stream, embedding_norm_.forward(stream, embedding, embedding_stats),
                                     hidden_norm_.forward(stream, hidden, hidden_stats));
  Tensor x = Tensor::empty(stream, hidden.shape(), hidden.dtype());
  ops::linear_forward(stream, joined, join_.weight.value, /*bias=*/{}, x);
  stash.put(kEmbedding, embedding);
  stash.put(kEmbeddingRstd, embedding_stats.rstd);
  stash.put(kHidden, hidden);
  stash.put(kHiddenRstd, hidden_stats.rstd);
  stash.put(kJoined, joined);
  return block_.forward(stream, microbatch, x, stash.part(kBlock));
}

Tensor Predictor::backward(Stream& stream, const Microbatch& microbatch, const Tensor& tokens, const Tensor& dy,
                           const Tensor& residual, Stash& stash) {
  const Tensor dx = block_.backward_input(stream, microbatch, dy, stash.part(kBlock));
  block_.backward_weight(stream, microbatch, stash.part(kBlock));
  join_.backward_weight(stream, dx, stash.take(kJoined));
  Tensor djoined = Tensor::empty(stream, {dx.dim(0), 2 * dx.dim(1)}, dx.dtype());
  ops::linear_backward_input(stream, dx, join_.weight.value, djoined, /*accumulate=*/false);

  Tensor dembedding;
  embedding_norm_.backward_weight(
      stream, embedding_norm_.backward_input(stream, half_of_columns(stream, djoined, 0), stash.take(kEmbedding),
                                             {{}, stash.take(kEmbeddingRstd)}, /*residual=*/{}, dembedding));
  const Tensor all = tensor_.gather(stream, dembedding, microbatch.num_tokens());
  ops::embedding_backward(stream, tokens, vocabulary_part(*table_), all, table_->gradient,
                          table_->accumulate_gradient());

  Tensor dhidden;
  hidden_norm_.backward_weight(
      stream, hidden_norm_.backward_input(stream, half_of_columns(stream, djoined, 1), stash.take(kHidden),
                                          {{}, stash.take(kHiddenRstd)}, residual, dhidden));
  return dhidden;
}

}  // namespace trireme
