#include "parallel/zero/gradient_reducer.h"

#include <algorithm>

namespace trireme {

GradientReducer::GradientReducer(const std::vector<Unit*>& units, std::vector<Bucket*> buckets, Communicator& data,
                                 bool overlap)
    : buckets_(std::move(buckets)), data_(data), overlap_(overlap), num_users_(buckets_.size(), 0) {
  for (Unit* unit : units) {
    std::vector<size_t>& used = buckets_of_unit_.emplace_back();
    const std::vector<Weight*> weights = unit->weights();
    for (size_t b = 0; b < buckets_.size(); ++b) {
      const std::vector<Weight*>& members = buckets_[b]->weights();
      const bool uses = std::any_of(weights.begin(), weights.end(), [&](Weight* weight) {
        return std::find(members.begin(), members.end(), weight) != members.end();
      });
      if (uses) {
        used.push_back(b);
        ++num_users_[b];
      }
    }
  }
  begin_step();
}

void GradientReducer::begin_step() {
  outstanding_ = num_users_;
  started_.assign(buckets_.size(), false);
  for (Bucket* bucket : buckets_) bucket->begin_step();
}

void GradientReducer::reduce(size_t bucket, Stream& stream) {
  started_[bucket] = true;
  buckets_[bucket]->finish_gradients(stream);
  if (data_.size() > 1) pending_.push_back(data_.all_reduce(buckets_[bucket]->gradient(), ReduceOp::sum, stream));
}

void GradientReducer::unit_finished(size_t i, Stream& stream) {
  for (const size_t bucket : buckets_of_unit_[i]) {
    TRIREME_CHECK(outstanding_[bucket] > 0);
    if (--outstanding_[bucket] == 0 && overlap_) reduce(bucket, stream);
  }
}

void GradientReducer::all_units_finished(Stream& stream) {
  for (size_t i = buckets_of_unit_.size(); i-- > 0;) unit_finished(i, stream);
}

Interval GradientReducer::finish(Stream& stream) {
  // Without overlap, in the order in which backward makes buckets ready: the collective sequence is the same.
  for (size_t b = buckets_.size(); b-- > 0;) {
    if (!started_[b]) reduce(b, stream);
  }
  if (pending_.empty()) return {};
  Interval waiting;
  waiting.begin = stream.record_time();
  for (const WorkHandle& work : pending_) work->wait(stream);
  waiting.end = stream.record_time();
  pending_.clear();
  return waiting;
}

}  // namespace trireme
