#include "optim/optimizer.h"

#include <algorithm>
#include <bit>

#include "core/ops/elementwise.h"
#include "core/random/philox.h"

namespace trireme {

namespace {

// Where the elements of this rank's part of a parameter lie in the whole of it: all in one piece, or (a split of a dim
// that isn't the first) row by row.
ops::UpdateRange row_of(const Parameter& parameter) {
  const LocalPart& part = parameter.part;
  int64_t outer = 1;
  int64_t inner = 1;
  for (int i = 0; i < part.dim; ++i) outer *= parameter.shape[i];
  for (int i = part.dim + 1; i < parameter.shape.ndim(); ++i) inner *= parameter.shape[i];
  ops::UpdateRange row;
  row.end = outer * part.padded * inner;
  if (outer == 1) {
    row.end = part.size * inner;  // padding lies behind
    row.first = part.begin * inner;
  } else if (part.size == 0) {
    row.end = 0;
  } else if (part.size < parameter.shape[part.dim] || part.padded > part.size) {
    row.columns = part.padded * inner;
    row.stride = parameter.shape[part.dim] * inner;
    row.origin = part.begin * inner;
  }
  return row;
}

// The table of the part of a bucket that this rank updates, on the device.
Tensor make_ranges(Stream& stream, const Bucket& bucket, uint64_t seed) {
  std::vector<ops::UpdateRange> rows;
  for (const BucketSegment& segment : bucket.segments()) {
    ops::UpdateRange row = row_of(*segment.parameter);
    const int64_t begin = std::clamp(bucket.shard_begin() - segment.begin, int64_t{0}, row.end);
    const int64_t end = std::clamp(bucket.shard_end() - segment.begin, int64_t{0}, row.end);
    if (begin == end) continue;
    row.first += begin;
    row.begin = segment.begin + begin - bucket.shard_begin();
    row.end = segment.begin + end - bucket.shard_begin();
    row.decays = segment.parameter->decays() ? 1 : 0;
    row.key = std::bit_cast<int64_t>(random_key(seed, segment.parameter->name));
    rows.push_back(row);
  }
  const Shape shape{std::ssize(rows), ops::kUpdateRangeColumns};
  Tensor table = Tensor::empty(stream, shape, DType::i64, MemoryTag::optimizer);
  if (!rows.empty()) ops::copy_from_host(stream, rows.data(), table);
  return table;
}

}  // namespace

Optimizer::Optimizer(Stream& stream, const OptimizerConfig& config, uint64_t seed, std::vector<Bucket*> buckets)
    : config_(config), buckets_(std::move(buckets)) {
  std::erase_if(buckets_, [](const Bucket* bucket) { return bucket->values_of() != nullptr || bucket->is_buffer(); });
  for (const Bucket* bucket : buckets_) ranges_.push_back(make_ranges(stream, *bucket, seed));
  scalars_.clip_factor = Tensor::empty(stream, {1}, DType::f32, MemoryTag::optimizer);
  scalars_.grad_norm = Tensor::empty(stream, {1}, DType::f32, MemoryTag::optimizer);
  scalars_.non_finite = Tensor::empty(stream, {1}, DType::i32, MemoryTag::optimizer);
  ops::fill(stream, scalars_.non_finite, 0);
}

void Optimizer::update(Stream& stream, double learning_rate, int64_t update, const Tensor& sum_squares,
                       const Tensor& loss) {
  ops::prepare_update(stream, sum_squares, loss, static_cast<float>(config_.clip_grad_norm), scalars_);

  ops::AdamW options;
  options.lr = static_cast<float>(learning_rate);
  options.beta1 = static_cast<float>(config_.betas[0]);
  options.beta2 = static_cast<float>(config_.betas[1]);
  options.eps = static_cast<float>(config_.eps);
  options.weight_decay = static_cast<float>(config_.weight_decay);
  options.step = update;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& bucket = *buckets_[i];
    const Tensor& weight = bucket.value_shard();
    ops::AdamWTensors state{.master = bucket.master(),
                            .weight = weight.dtype() == DType::bf16 ? weight : Tensor{},
                            .m = bucket.first_moment(),
                            .v = bucket.second_moment()};
    ops::adamw_update(stream, options, scalars_, ranges_[i], bucket.gradient_shard(), state);
  }
}

}  // namespace trireme
