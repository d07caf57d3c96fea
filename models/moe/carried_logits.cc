#include "models/moe/carried_logits.h"

#include "core/ops/elementwise.h"
#include "core/ops/row_bytes.h"

namespace trireme {

namespace {

int64_t num_columns(const ModelConfig& config, DType compute) {
  return config.hidden_size + config.experts.num_choices() * dtype_bytes(DType::f32) / dtype_bytes(compute);
}

}  // namespace

bool carries_logits(const ModelConfig& config, int64_t layer) {
  if (!config.experts.gating_residual) return false;
  bool before = false;
  bool behind = false;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (config.has_experts(i)) (i < layer ? before : behind) = true;
  }
  return before && behind;
}

int64_t hidden_columns(const ModelConfig& config, int64_t layer, DType compute) {
  return carries_logits(config, layer) ? num_columns(config, compute) : config.hidden_size;
}

CarriedLogits split_logits(Stream& stream, const ModelConfig& config, const Tensor& x) {
  const int64_t hidden_bytes = config.hidden_size * dtype_bytes(x.dtype());
  const int64_t num_choices = config.experts.num_choices();
  CarriedLogits parts{Tensor::empty(stream, {x.dim(0), config.hidden_size}, x.dtype()),
                      Tensor::empty(stream, {x.dim(0), num_choices}, DType::f32)};
  ops::copy_row_bytes(stream, x, 0, parts.hidden, 0, hidden_bytes);
  ops::copy_row_bytes(stream, x, hidden_bytes, parts.logits, 0, num_choices * dtype_bytes(DType::f32));
  return parts;
}

Tensor join_logits(Stream& stream, const ModelConfig& config, const Tensor& hidden, const Tensor& logits,
                   int64_t first_row) {
  const int64_t hidden_bytes = config.hidden_size * dtype_bytes(hidden.dtype());
  Tensor y = Tensor::empty(stream, {hidden.dim(0), num_columns(config, hidden.dtype())}, hidden.dtype());
  const int64_t num_given = logits.defined() ? logits.dim(0) : 0;
  if (num_given < hidden.dim(0)) ops::fill(stream, y, 0);
  ops::copy_row_bytes(stream, hidden, 0, y, 0, hidden_bytes);
  if (num_given == 0) return y;
  Tensor rows = y.slice(first_row, first_row + num_given);
  ops::copy_row_bytes(stream, logits, 0, rows, hidden_bytes, config.experts.num_choices() * dtype_bytes(DType::f32));
  return y;
}

}  // namespace trireme
