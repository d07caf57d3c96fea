#include "parallel/zero/parameter_gatherer.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "parallel/zero/unit_buckets.h"

namespace trireme {

ParameterGatherer::ParameterGatherer(const std::vector<Unit*>& units, const std::vector<Bucket*>& buckets,
                                     const Groups& groups, const Options& options)
    : options_(options) {
  // A second use of values is a use of the bucket that has them.
  std::vector<size_t> place(buckets.size());
  for (size_t b = 0; b < buckets.size(); ++b) {
    if (buckets[b]->values_of() != nullptr) continue;
    place[b] = buckets_.size();
    buckets_.push_back(buckets[b]);
  }
  for (size_t b = 0; b < buckets.size(); ++b) {
    if (buckets[b]->values_of() == nullptr) continue;
    const auto owner = std::find(buckets_.begin(), buckets_.end(), buckets[b]->values_of());
    TRIREME_CHECK(owner != buckets_.end(), "a second use of values that aren't here");
    place[b] = static_cast<size_t>(owner - buckets_.begin());
  }
  states_.resize(buckets_.size());
  for (size_t b = 0; b < buckets_.size(); ++b) states_[b].shards = &groups.of({buckets_[b]->shard_axis()});
  for (const std::vector<size_t>& used : buckets_of_units(units, buckets)) {
    std::vector<size_t>& own = buckets_of_unit_.emplace_back();
    for (const size_t b : used) {
      own.push_back(place[b]);
      ++states_[place[b]].uses_per_microbatch;
      if (std::find(gather_order_.begin(), gather_order_.end(), place[b]) == gather_order_.end()) {
        gather_order_.push_back(place[b]);
      }
    }
  }
  for (const Unit* unit : units) reads_in_backward_.push_back(unit->reads_values_in_backward());
}

ParameterGatherer::~ParameterGatherer() {
  if (std::uncaught_exceptions() > 0) return;  // the others may never come
  for (State& state : states_) {
    try {
      if (state.work) state.work->wait(*stream_);
    } catch (const Error&) {
      // Another rank has failed, and says so itself.
    }
  }
}

void ParameterGatherer::begin_step(int64_t num_microbatches) {
  last_step_ = std::exchange(this_step_, {});
  this_step_.reserve(last_step_.size());
  for (State& state : states_) state.uses_left = state.uses_per_microbatch * num_microbatches;
}

bool ParameterGatherer::is_final(const Use& use) const {
  return use.pass == Pass::backward || !reads_in_backward_[use.unit];
}

std::vector<size_t> ParameterGatherer::next_units(const Use& now) const {
  std::vector<size_t> units;
  const int64_t ahead = options_.overlap ? options_.prefetch : 0;
  const size_t next = this_step_.size();
  const bool known = now.pass != Pass::evaluation && next <= last_step_.size() && last_step_[next - 1] == now;
  for (int64_t i = 1; i <= ahead; ++i) {
    if (known) {
      const size_t place = next - 1 + static_cast<size_t>(i);
      if (place < last_step_.size()) units.push_back(last_step_[place].unit);
    } else {
      const int64_t unit = static_cast<int64_t>(now.unit) + (now.pass == Pass::backward ? -i : i);
      if (unit >= 0 && unit < std::ssize(buckets_of_unit_)) units.push_back(static_cast<size_t>(unit));
    }
  }
  return units;
}

void ParameterGatherer::start(size_t b, Stream& stream) {
  Bucket& bucket = *buckets_[b];
  if (bucket.stage() < 3 || bucket.value().defined()) return;
  bucket.open_value(stream);
  gather(b, stream);
}

void ParameterGatherer::gather(size_t b, Stream& stream) {
  Bucket& bucket = *buckets_[b];
  stream_ = &stream;
  states_[b].work = states_[b].shards->all_gather(bucket.value_shard(), bucket.value(), stream);
}

void ParameterGatherer::wait(size_t b, Stream& stream) {
  if (WorkHandle work = std::exchange(states_[b].work, nullptr)) exposed_.wait(*work, stream);
}

void ParameterGatherer::before_use(size_t unit, Pass pass, Stream& stream) {
  const Use now{unit, pass};
  if (pass != Pass::evaluation) this_step_.push_back(now);
  for (const size_t b : buckets_of_unit_[unit]) start(b, stream);
  for (const size_t next : next_units(now)) {
    for (const size_t b : buckets_of_unit_[next]) start(b, stream);
  }
  for (const size_t b : buckets_of_unit_[unit]) wait(b, stream);
}

void ParameterGatherer::after_use(size_t unit, Pass pass, Stream&) {
  const Use now{unit, pass};
  std::vector<size_t> soon;
  for (const size_t next : next_units(now)) {
    soon.insert(soon.end(), buckets_of_unit_[next].begin(), buckets_of_unit_[next].end());
  }
  for (const size_t b : buckets_of_unit_[unit]) {
    if (buckets_[b]->stage() < 3) continue;
    const bool in_step = pass != Pass::evaluation;
    if (in_step && is_final(now)) --states_[b].uses_left;
    const bool kept = in_step && options_.keep_for_step ? states_[b].uses_left > 0
                                                        : std::find(soon.begin(), soon.end(), b) != soon.end();
    if (!kept) buckets_[b]->drop_value();
  }
}

void ParameterGatherer::wait_all(Stream& stream) {
  for (const size_t b : gather_order_) wait(b, stream);
}

void ParameterGatherer::after_update(Stream& stream) {
  wait_all(stream);
  for (const size_t b : gather_order_) {
    Bucket& bucket = *buckets_[b];
    if (bucket.stage() == 3) {
      if (bucket.value().defined()) bucket.drop_value();
    } else if (bucket.stage() > 0) {
      gather(b, stream);
      if (!options_.overlap) wait(b, stream);
    }
  }
}

ExposedTime ParameterGatherer::take_exposed() { return std::exchange(exposed_, {}); }

}  // namespace trireme
