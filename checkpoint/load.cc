#include "checkpoint/load.h"

#include <algorithm>
#include <set>

#include "checkpoint/state_tensors.h"
#include "core/error.h"

namespace trireme {

namespace {

constexpr int64_t kStretch = int64_t{1} << 20;  // elements that are read at a time: they stay in the cache

[[noreturn]] void fail_other_model(const CheckpointReader& reader, const std::string& what, const std::string& expected,
                                   const std::string& found) {
  throw DataError({.what = "the checkpoint is of another model: " + what,
                   .expected = expected,
                   .found = found,
                   .where = reader.path(),
                   .hint = "the model section that `trireme checkpoint inspect` shows"});
}

// Parts of parameters on their way from a file, in memory that is used again and again.
class PartReader {
 public:
  explicit PartReader(const ReadBox& read_box) : read_box_(read_box) {}

  // Elements [begin, end) of this rank's part of the parameter; padding is zero. Valid until the next call.
  const float* read(const Parameter& parameter, int64_t begin, int64_t end) {
    const auto n = static_cast<size_t>(end - begin);
    stored_.resize(std::max(n, stored_.size()));
    int64_t count = 0;
    for (const Box& box : boxes_of(parameter, begin, end)) {
      const auto numel = static_cast<size_t>(box.numel());
      read_box_(parameter, box, std::span(stored_).subspan(static_cast<size_t>(count), numel));
      count += box.numel();
    }
    if (count == end - begin) return stored_.data();
    local_.assign(n, 0.0f);
    const float* next = stored_.data();
    parameter.part.for_each_run(parameter.shape, begin, end, [&](int64_t to, int64_t, int64_t run) {
      std::copy_n(next, run, local_.data() + (to - begin));
      next += run;
    });
    return local_.data();
  }

 private:
  const ReadBox& read_box_;
  std::vector<float> stored_, local_;
};

void load_buffer(const CheckpointReader& reader, Stream& stream, Bucket& bucket, Bucket::Buffer buffer) {
  load_shard(stream, bucket, buffer, [&](const Parameter& parameter, const Box& box, std::span<float> out) {
    reader.read(reader.tensor(state_tensor_name(buffer, parameter.name)), box, out);
  });
}

}  // namespace

void load_shard(Stream& stream, Bucket& bucket, Bucket::Buffer buffer, const ReadBox& read_box) {
  PartReader part(read_box);
  for (const BucketSegment& segment : bucket.segments()) {
    const int64_t first = std::max(bucket.shard_begin(), segment.begin);
    const int64_t last = std::min(bucket.shard_end(), segment.end);
    for (int64_t at = first; at < last; at += kStretch) {
      const int64_t end = std::min(last, at + kStretch);
      const float* values = part.read(*segment.parameter, at - segment.begin, end - segment.begin);
      bucket.store(stream, buffer, at, end - at, values);
    }
  }
}

void check_same_model(const CheckpointReader& reader, const std::vector<Parameter>& parameters) {
  std::set<std::string> names;
  for (const Parameter& parameter : parameters) {
    names.insert(parameter.name);
    if (!reader.contains(parameter.name))
      fail_other_model(reader, "it has no " + parameter.name, parameter.shape.str(), "");
    const StoredTensor& tensor = reader.tensor(parameter.name);
    if (!(tensor.shape == parameter.shape)) {
      fail_other_model(reader, parameter.name + " has another shape", parameter.shape.str(), tensor.shape.str());
    }
  }
  for (const StoredTensor& tensor : reader.manifest().tensors) {
    if (tensor.name.starts_with(kOptimizerPrefix) || names.contains(tensor.name)) continue;
    fail_other_model(reader, "this one has no " + tensor.name, "", tensor.shape.str());
  }
}

void load_checkpoint(const CheckpointReader& reader, Stream& stream, const std::vector<Parameter>& parameters,
                     const std::vector<Bucket*>& buckets, StateParts parts) {
  check_same_model(reader, parameters);
  for (Bucket* bucket : buckets) {
    if (bucket->values_of() != nullptr) continue;
    load_buffer(reader, stream, *bucket, Bucket::Buffer::master);
    if (parts == StateParts::weights || !bucket->first_moment().defined()) continue;
    if (!reader.contains(state_tensor_name(Bucket::Buffer::first_moment, bucket->segments().front().parameter->name))) {
      throw DataError({.what = "the checkpoint has weights only, no optimizer states to continue with",
                       .where = reader.path(),
                       .hint = "checkpoint.init_from with this path, which starts a run from weights"});
    }
    load_buffer(reader, stream, *bucket, Bucket::Buffer::first_moment);
    load_buffer(reader, stream, *bucket, Bucket::Buffer::second_moment);
  }
}

}  // namespace trireme
