#include "parallel/zero/data_parallel.h"

#include "parallel/zero/weight_groups.h"

namespace trireme {

namespace {

using Pass = ParameterGatherer::Pass;

Pass forward_pass(bool with_gradients) { return with_gradients ? Pass::forward : Pass::evaluation; }

}  // namespace

DataParallel::DataParallel(const std::vector<Unit*>& units, const std::vector<Bucket*>& buckets, const Groups& groups,
                           const Options& options)
    : reducer_(units, buckets, groups, options.overlap_grad_reduce),
      gatherer_(units, buckets, groups,
                {.overlap = options.overlap_param_gather,
                 .keep_for_step = options.keep_gathered_for_step,
                 .prefetch = options.prefetch}) {
  for (const Unit* unit : units) {
    gradients_in_forward_.push_back(unit->gradients_in_forward());
    reads_values_in_backward_.push_back(unit->reads_values_in_backward());
  }
  for (const Bucket* bucket : buckets) {
    TRIREME_CHECK(group_weights(bucket->weights(), groups.mesh()).size() == 1, "a bucket of different reductions");
    const int64_t shards = groups.of({bucket->shard_axis()}).size();
    TRIREME_CHECK(bucket->stage() == 0 || bucket->numel() == shards * (bucket->shard_end() - bucket->shard_begin()),
                  "shards of another group");
  }
}

void DataParallel::begin_step(int64_t num_microbatches) {
  reducer_.begin_step(num_microbatches);
  gatherer_.begin_step(num_microbatches);
}

ExposedTime DataParallel::finish(Stream& stream) {
  gatherer_.wait_all(stream);
  ExposedTime exposed = gatherer_.take_exposed();
  exposed.add(reducer_.finish(stream));
  return exposed;
}

void DataParallel::after_update(Stream& stream) { gatherer_.after_update(stream); }

void DataParallel::before_forward(size_t unit, bool with_gradients, Stream& stream) {
  gatherer_.before_use(unit, forward_pass(with_gradients), stream);
  if (with_gradients && gradients_in_forward_[unit]) reducer_.before_unit(unit, stream);
}

void DataParallel::after_forward(size_t unit, bool with_gradients, Stream& stream) {
  gatherer_.after_use(unit, forward_pass(with_gradients), stream);
  if (with_gradients && gradients_in_forward_[unit]) reducer_.unit_finished(unit, stream);
}

void DataParallel::before_backward(size_t unit, Stream& stream) {
  if (reads_values_in_backward_[unit]) gatherer_.before_use(unit, Pass::backward, stream);
}

void DataParallel::after_backward_input(size_t unit, Stream& stream) {
  if (reads_values_in_backward_[unit]) gatherer_.after_use(unit, Pass::backward, stream);
}

void DataParallel::before_backward_weight(size_t unit, Stream& stream) {
  if (!gradients_in_forward_[unit]) reducer_.before_unit(unit, stream);
}

void DataParallel::after_backward_weight(size_t unit, Stream& stream) {
  if (!gradients_in_forward_[unit]) reducer_.unit_finished(unit, stream);
}

}  // namespace trireme
