#include "checkpoint/load.h"

#include <algorithm>
#include <set>

#include "checkpoint/state_tensors.h"
#include "core/error.h"

namespace trireme {

namespace {

constexpr int64_t kStretch = int64_t{4} << 20;  // elements that are read at a time

[[noreturn]] void fail_other_model(const CheckpointReader& reader, const std::string& what, const std::string& expected,
                                   const std::string& found) {
  throw DataError({.what = "the checkpoint is of another model: " + what,
                   .expected = expected,
                   .found = found,
                   .where = reader.path(),
                   .hint = "the model section that `trireme checkpoint inspect` shows"});
}

// Elements [begin, end) of this rank's part of the parameter; padding is zero.
std::vector<float> read_part(const ReadBox& read_box, const Parameter& parameter, int64_t begin, int64_t end) {
  std::vector<float> stored(static_cast<size_t>(end - begin));
  int64_t count = 0;
  for (const Box& box : boxes_of(parameter, begin, end)) {
    read_box(parameter, box, std::span(stored).subspan(static_cast<size_t>(count), static_cast<size_t>(box.numel())));
    count += box.numel();
  }
  if (count == end - begin) return stored;
  std::vector<float> local(stored.size());
  const float* next = stored.data();
  parameter.part.for_each_run(parameter.shape, begin, end, [&](int64_t to, int64_t, int64_t n) {
    std::copy_n(next, n, local.data() + (to - begin));
    next += n;
  });
  return local;
}

void load_buffer(const CheckpointReader& reader, Stream& stream, Bucket& bucket, Bucket::Buffer buffer) {
  load_shard(stream, bucket, buffer, [&](const Parameter& parameter, const Box& box, std::span<float> out) {
    reader.read(reader.tensor(state_tensor_name(buffer, parameter.name)), box, out);
  });
}

}  // namespace

void load_shard(Stream& stream, Bucket& bucket, Bucket::Buffer buffer, const ReadBox& read_box) {
  for (const BucketSegment& segment : bucket.segments()) {
    const int64_t first = std::max(bucket.shard_begin(), segment.begin);
    const int64_t last = std::min(bucket.shard_end(), segment.end);
    for (int64_t at = first; at < last; at += kStretch) {
      const int64_t end = std::min(last, at + kStretch);
      const auto values = read_part(read_box, *segment.parameter, at - segment.begin, end - segment.begin);
      bucket.store(stream, buffer, at, end - at, values.data());
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
