#include "optim/optimizer.h"

#include <bit>

#include "core/ops/elementwise.h"
#include "core/random/philox.h"

namespace trireme {

namespace {

// The table of a bucket, on the device.
Tensor make_ranges(Stream& stream, const Bucket& bucket, uint64_t seed) {
  std::vector<ops::UpdateRange> rows;
  for (const BucketSegment& segment : bucket.segments()) {
    ops::UpdateRange& row = rows.emplace_back();
    row.begin = segment.begin;
    row.end = segment.end;
    row.decays = segment.parameter->decays() ? 1 : 0;
    row.key = std::bit_cast<int64_t>(random_key(seed, segment.parameter->name));
  }
  Tensor table = Tensor::empty(stream, {static_cast<int64_t>(rows.size()), ops::kUpdateRangeColumns}, DType::i64,
                               MemoryTag::optimizer);
  ops::copy_from_host(stream, rows.data(), table);
  return table;
}

}  // namespace

Optimizer::Optimizer(Stream& stream, const OptimizerConfig& config, uint64_t seed, std::vector<Bucket*> buckets)
    : config_(config), buckets_(std::move(buckets)) {
  for (const Bucket* bucket : buckets_) ranges_.push_back(make_ranges(stream, *bucket, seed));
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
  options.weight_decay = static_cast<float>(config_.weight_decay);
  options.step = update;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& bucket = *buckets_[i];
    ops::AdamWTensors state{.master = bucket.master(),
                            .weight = bucket.value().dtype() == DType::bf16 ? bucket.value() : Tensor{},
                            .m = bucket.first_moment(),
                            .v = bucket.second_moment()};
    ops::adamw_update(stream, options, scalars_, ranges_[i], bucket.gradient(), state);
  }
}

}  // namespace trireme
