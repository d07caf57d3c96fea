#include "parallel/zero/gradient_reducer.h"

#include <algorithm>
#include <utility>

#include "core/ops/elementwise.h"
#include "parallel/zero/unit_buckets.h"

namespace trireme {

namespace {

constexpr int64_t kLag = 2;  // units between the start of a collective and the wait for it

std::vector<Bucket*> with_gradients(std::vector<Bucket*> buckets) {
  std::erase_if(buckets, [](const Bucket* bucket) { return bucket->is_buffer(); });
  return buckets;
}

}  // namespace

GradientReducer::GradientReducer(const std::vector<Unit*>& units, std::vector<Bucket*> buckets, const Groups& groups,
                                 bool overlap)
    : buckets_(with_gradients(std::move(buckets))),
      ends_(groups.ends()),
      overlap_(overlap),
      buckets_of_unit_(buckets_of_units(units, buckets_)),
      states_(buckets_.size()) {
  std::vector<int> num_users(buckets_.size(), 0);
  for (const std::vector<size_t>& used : buckets_of_unit_) {
    for (const size_t b : used) ++num_users[b];
  }
  for (size_t b = 0; b < buckets_.size(); ++b) {
    TRIREME_CHECK(num_users[b] == 1, "gradients of a bucket that two units write, or none");
    const Bucket& bucket = *buckets_[b];
    states_[b].shards = &groups.of({bucket.shard_axis()});
    AxisSet owed = bucket.partial_axes().without({bucket.shard_axis()});
    for (const Axis axis : {bucket.replica_axis(), Axis::tensor}) {
      if (owed.contains(axis) && groups.mesh().degree(axis) > 1) states_[b].hops.push_back(&groups.of({axis}));
      owed = owed.without({axis});
    }
    TRIREME_CHECK(groups.mesh().group_size(owed) == 1, "gradients that are partial over axes that nobody sums");
  }
  begin_step(1);
}

void GradientReducer::begin_step(int64_t num_microbatches) {
  num_microbatches_ = num_microbatches;
  turn_ = 0;
  for (State& state : states_) {
    state.num_finished = 0;
    state.started = false;
  }
  for (Bucket* bucket : buckets_) bucket->begin_step();
}

void GradientReducer::before_unit(size_t unit, Stream& stream) {
  for (const size_t b : buckets_of_unit_[unit]) {
    if (buckets_[b]->stage() >= 2) buckets_[b]->open_gradient(stream);
  }
}

void GradientReducer::unit_finished(size_t unit, Stream& stream) {
  for (const size_t b : buckets_of_unit_[unit]) {
    State& state = states_[b];
    const bool last = ++state.num_finished == num_microbatches_;
    TRIREME_CHECK(state.num_finished <= num_microbatches_, "more microbatches than the step has");
    if (buckets_[b]->stage() >= 2 || (last && overlap_)) start_data_sum(b, stream);
  }
  ++turn_;
  settle_older(overlap_ ? kLag : 0, stream);
}

void GradientReducer::all_units_finished(Stream& stream) {
  for (size_t i = buckets_of_unit_.size(); i-- > 0;) unit_finished(i, stream);
}

void GradientReducer::start_data_sum(size_t b, Stream& stream) {
  Bucket& bucket = *buckets_[b];
  State& state = states_[b];
  state.started = true;
  bucket.finish_gradients(stream);
  Communicator& shards = *state.shards;
  if (shards.size() == 1) return start_hop(b, 0, stream);
  Sum sum{.bucket = b, .hop = 0, .turn = turn_, .last = state.num_finished == num_microbatches_};
  if (bucket.stage() == 0) {
    sum.work = shards.all_reduce(bucket.gradient(), ReduceOp::sum, stream);
  } else if (bucket.stage() == 1) {
    sum.work = shards.reduce_scatter(bucket.gradient(), bucket.gradient_shard(), ReduceOp::sum, stream);
  } else {
    // One sum of a bucket at a time: they are added in the order of microbatches.
    const auto earlier = std::find_if(sums_.begin(), sums_.end(), [&](const Sum& s) { return s.bucket == b; });
    if (earlier != sums_.end()) settle(take(earlier), stream);
    sum.full = bucket.take_gradient();
    if (state.num_finished > 1) {
      sum.shard = Tensor::empty(stream, bucket.gradient_shard().shape(), sum.full.dtype(), MemoryTag::gradients);
    }
    sum.work = shards.reduce_scatter(sum.full, sum.shard.defined() ? sum.shard : bucket.gradient_shard(), ReduceOp::sum,
                                     stream);
  }
  sums_.push_back(std::move(sum));
}

void GradientReducer::start_hop(size_t b, size_t hop, Stream& stream) {
  const State& state = states_[b];
  if (hop == state.hops.size()) return;
  Sum sum{.bucket = b, .hop = hop + 1, .turn = turn_, .last = true};
  sum.work = state.hops[hop]->all_reduce(buckets_[b]->gradient_shard(), ReduceOp::sum, stream);
  sums_.push_back(std::move(sum));
}

void GradientReducer::settle(Sum sum, Stream& stream) {
  exposed_.wait(*sum.work, stream);
  Bucket& bucket = *buckets_[sum.bucket];
  if (sum.shard.defined()) ops::add(stream, bucket.gradient_shard(), sum.shard, bucket.gradient_shard());
  if (sum.last) start_hop(sum.bucket, sum.hop, stream);
}

GradientReducer::Sum GradientReducer::take(std::deque<Sum>::iterator place) {
  Sum sum = std::move(*place);
  sums_.erase(place);
  return sum;
}

void GradientReducer::settle_older(int64_t lag, Stream& stream) {
  for (size_t i = 0; i < sums_.size();) {
    const Sum& sum = sums_[i];
    const bool early = sum.full.defined() || (sum.last && sum.hop < states_[sum.bucket].hops.size());
    if (sum.turn + lag >= turn_ || !early) {
      ++i;
      continue;
    }
    settle(take(sums_.begin() + static_cast<std::ptrdiff_t>(i)), stream);
  }
}

void GradientReducer::add_second_uses(Stream& stream) {
  for (Bucket* bucket : buckets_) {
    Bucket* first = bucket->values_of();
    if (first != nullptr) ops::add(stream, first->gradient_shard(), bucket->gradient_shard(), first->gradient_shard());
  }
  if (ends_.size() == 1) return;
  std::vector<WorkHandle> work;
  for (Bucket* bucket : buckets_) {
    if (bucket->on_both_ends()) work.push_back(ends_.all_reduce(bucket->gradient_shard(), ReduceOp::sum, stream));
  }
  for (const WorkHandle& w : work) exposed_.wait(*w, stream);
}

ExposedTime GradientReducer::finish(Stream& stream) {
  // Without overlap, in the order in which backward makes buckets ready.
  for (size_t unit = buckets_of_unit_.size(); unit-- > 0;) {
    for (const size_t b : buckets_of_unit_[unit]) {
      TRIREME_CHECK(states_[b].num_finished == num_microbatches_, "a step whose gradients aren't complete");
      if (!states_[b].started) start_data_sum(b, stream);
    }
  }
  while (!sums_.empty()) settle(take(sums_.begin()), stream);
  add_second_uses(stream);
  return std::exchange(exposed_, {});
}

}  // namespace trireme
