#include "models/moe/stats.h"

#include "core/ops/elementwise.h"

namespace trireme {

MoeStats::MoeStats(Stream& stream, const ModelConfig& config) : num_choices_(config.experts.num_choices()) {
  const int64_t layers = config.num_layers + config.num_predictors;
  for (int64_t layer = 0; layer < layers; ++layer) num_layers_ += config.has_experts(layer);
  if (num_layers_ == 0) return;
  counts_ = Tensor::empty(stream, {num_layers_, row()}, DType::i64, MemoryTag::workspace);
  sums_ = Tensor::empty(stream, {num_layers_, kNumSums}, DType::f64, MemoryTag::workspace);
  clear(stream);
}

void MoeStats::clear(Stream& stream) {
  if (num_layers_ == 0) return;
  ops::fill(stream, counts_, 0);
  ops::fill(stream, sums_, 0);
  dropped_.assign(static_cast<size_t>(num_layers_), 0);
}

void MoeStats::store_dropped(Stream& stream) {
  for (int64_t layer = 0; layer < num_layers_; ++layer) {
    Tensor place = counts_.flat_slice(layer * row() + num_choices_, {1});
    ops::copy_from_host(stream, &dropped_[static_cast<size_t>(layer)], place);
  }
}

}  // namespace trireme
