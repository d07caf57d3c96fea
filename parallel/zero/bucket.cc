#include "parallel/zero/bucket.h"

#include <algorithm>

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

constexpr int64_t kAlignment = 64;  // elements

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

Tensor zeros(Stream& stream, int64_t n, DType dtype, MemoryTag tag) {
  Tensor t = Tensor::empty(stream, {n}, dtype, tag);
  ops::fill(stream, t, 0);
  return t;
}

// Points `whole` of each weight and `piece` of each of its parameters into `flat`, or nowhere.
void point(const std::vector<Weight*>& weights, const std::vector<int64_t>& offsets, const Tensor& flat,
           Tensor Weight::*whole, Tensor Parameter::*piece) {
  for (size_t i = 0; i < weights.size(); ++i) {
    Weight& weight = *weights[i];
    weight.*whole = flat.defined() ? flat.flat_slice(offsets[i], weight.shape()) : Tensor{};
    int64_t offset = offsets[i];
    for (Parameter& part : weight.parts) {
      part.*piece = flat.defined() ? flat.flat_slice(offset, part.local_shape()) : Tensor{};
      offset += part.local_shape().numel();
    }
  }
}

}  // namespace

Bucket::Bucket(Stream& stream, std::string name, std::vector<Weight*> weights, const Options& options)
    : name_(std::move(name)),
      weights_(std::move(weights)),
      compute_(options.compute),
      gradients_(options.gradients),
      stage_(options.num_shards == 1 ? 0 : options.stage),
      on_both_ends_(options.on_both_ends),
      values_of_(options.values_of) {
  TRIREME_CHECK(!weights_.empty());
  TRIREME_CHECK(options.with_master || compute_ == DType::bf16, "fp32 weights are their own master");
  TRIREME_CHECK(options.shard >= 0 && options.shard < options.num_shards && options.stage >= 0 && options.stage <= 3);
  place_weights();
  numel_ = round_up(segments_.back().end, kAlignment * options.num_shards);
  own_numel_ = numel_ / options.num_shards;
  own_begin_ = options.shard * own_numel_;
  shard_begin_ = stage_ == 0 ? 0 : own_begin_;
  shard_end_ = stage_ == 0 ? numel_ : own_begin_ + own_numel_;
  TRIREME_CHECK(values_of_ == nullptr || values_of_->numel_ == numel_, "a second use of other weights");
  allocate(stream, options);
}

void Bucket::place_weights() {
  int64_t n = 0;
  for (Weight* weight : weights_) {
    n = round_up(n, kAlignment);
    offsets_.push_back(n);
    for (Parameter& parameter : weight->parts) {
      if (parameter.part.padded == 0) parameter.part = LocalPart::whole(parameter.shape);
      partial_ = partial_ | parameter.gradient_placement.partial_axes();
      cut_ = cut_ | parameter.placement.cut_axes();
      const int64_t end = n + parameter.local_shape().numel();
      segments_.push_back({n, end, &parameter});
      n = end;
    }
  }
}

void Bucket::allocate(Stream& stream, const Options& options) {
  const int64_t shard = shard_end_ - shard_begin_;
  if (!options.with_optimizer_states) {
    // Nothing but values.
  } else if (stage_ < 2) {
    gradient_ = zeros(stream, numel_, gradients_, MemoryTag::gradients);
    gradient_shard_ = gradient_.slice(shard_begin_, shard_end_);
    point_gradients(gradient_);
  } else {
    gradient_shard_ = zeros(stream, shard, gradients_, MemoryTag::gradients);
  }
  if (values_of_ != nullptr) {
    values_of_->second_uses_.push_back(this);
    point_values(values_of_->value_);
    return;
  }
  if (stage_ < 3) {
    value_ = zeros(stream, numel_, compute_, MemoryTag::parameters);
    value_shard_ = value_.slice(shard_begin_, shard_end_);
    point_values(value_);
  } else {
    value_shard_ = zeros(stream, shard, compute_, MemoryTag::parameters);
  }
  if (!options.with_optimizer_states) return;
  if (options.with_master) {
    master_ = compute_ == DType::f32 ? value_shard_ : zeros(stream, shard, DType::f32, MemoryTag::optimizer);
  }
  m_ = zeros(stream, shard, options.states, MemoryTag::optimizer);
  v_ = zeros(stream, shard, options.states, MemoryTag::optimizer);
}

void Bucket::point_values(const Tensor& flat) {
  point(weights_, offsets_, flat, &Weight::value, &Parameter::value);
  for (Bucket* use : second_uses_) use->point_values(flat);
}

void Bucket::point_gradients(const Tensor& flat) {
  point(weights_, offsets_, flat, &Weight::gradient, &Parameter::gradient);
}

AxisSet Bucket::copy_axes() const {
  const bool of_expert = shard_axis() == Axis::expert_shard;
  AxisSet axes = of_expert ? kDispatchAxes : AxisSet{Axis::tensor, Axis::context};
  axes = axes.without(cut_) | AxisSet{replica_axis()};
  if (stage_ == 0) axes.insert(shard_axis());
  return axes;
}

Tensor Bucket::own_gradient() const {
  const int64_t begin = own_begin_ - shard_begin_;
  return gradient_shard_.slice(begin, begin + own_numel_);
}

void Bucket::open_value(Stream& stream) {
  TRIREME_CHECK(stage_ == 3 && !value_.defined());
  value_ = Tensor::empty(stream, {numel_}, compute_, MemoryTag::parameters);
  point_values(value_);
}

void Bucket::drop_value() {
  TRIREME_CHECK(stage_ == 3);
  value_ = {};
  point_values(value_);
}

void Bucket::begin_step() {
  for (Weight* weight : weights_) weight->gradient_written = false;
}

void Bucket::open_gradient(Stream& stream) {
  TRIREME_CHECK(stage_ >= 2 && !gradient_.defined(), "gradients of two microbatches at once");
  gradient_ = Tensor::empty(stream, {numel_}, gradients_, MemoryTag::gradients);
  // What no weight covers.
  const auto clear = [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    Tensor gap = gradient_.slice(begin, end);
    ops::fill(stream, gap, 0);
  };
  int64_t covered = 0;
  for (const BucketSegment& segment : segments_) {
    clear(covered, segment.begin);
    covered = segment.end;
  }
  clear(covered, numel_);
  point_gradients(gradient_);
  begin_step();
}

void Bucket::finish_gradients(Stream& stream) {
  for (Weight* weight : weights_) {
    if (!weight->accumulate_gradient()) ops::fill(stream, weight->gradient, 0);
  }
}

Tensor Bucket::take_gradient() {
  TRIREME_CHECK(stage_ >= 2 && gradient_.defined());
  Tensor full = std::move(gradient_);
  gradient_ = {};
  point_gradients(gradient_);
  return full;
}

}  // namespace trireme
