#include "optim/optimizer.h"

#include "core/ops/elementwise.h"

namespace trireme {

Optimizer::Optimizer(Stream& stream, const OptimizerConfig& config, std::vector<Bucket*> buckets)
    : config_(config), buckets_(std::move(buckets)) {
  sum_squares_ = Tensor::empty(stream, {1}, DType::f64, MemoryTag::optimizer);
  scalars_.clip_factor = Tensor::empty(stream, {1}, DType::f32, MemoryTag::optimizer);
  scalars_.grad_norm = Tensor::empty(stream, {1}, DType::f32, MemoryTag::optimizer);
  scalars_.non_finite = Tensor::empty(stream, {1}, DType::i32, MemoryTag::optimizer);
  ops::fill(stream, scalars_.non_finite, 0);
}

void Optimizer::update(Stream& stream, double learning_rate, int64_t update, const Tensor& loss) {
  bool first = true;
  for (Bucket* bucket : buckets_) {
    ops::sum_squares(stream, bucket->gradient(), sum_squares_, /*accumulate=*/!first);
    first = false;
  }
  ops::prepare_update(stream, sum_squares_, loss, static_cast<float>(config_.clip_grad_norm), scalars_);

  ops::AdamW options;
  options.lr = static_cast<float>(learning_rate);
  options.beta1 = static_cast<float>(config_.betas[0]);
  options.beta2 = static_cast<float>(config_.betas[1]);
  options.eps = static_cast<float>(config_.eps);
  options.step = update;
  for (Bucket* bucket : buckets_) {
    const bool narrow = bucket->value().dtype() == DType::bf16;
    for (const BucketSegment& segment : bucket->segments()) {
      options.weight_decay = segment.decays ? static_cast<float>(config_.weight_decay) : 0.0f;
      const auto part = [&](const Tensor& flat) { return flat.slice(segment.begin, segment.end); };
      const Tensor gradient = part(bucket->gradient());
      Tensor master = part(bucket->master());
      Tensor m = part(bucket->first_moment());
      Tensor v = part(bucket->second_moment());
      Tensor weight = narrow ? part(bucket->value()) : Tensor{};
      ops::adamw_update(stream, options, scalars_, gradient, master, m, v, weight);
    }
  }
}

}  // namespace trireme
