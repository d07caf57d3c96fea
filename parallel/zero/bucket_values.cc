// What goes into a bucket and comes out: initial values, and parameters as global arrays on the host.
#include <algorithm>

#include "core/device/thread_pool.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "parallel/zero/bucket.h"

namespace trireme {

namespace {

constexpr int64_t kGrain = 16384;  // elements

// Elements first … first + n − 1 of the sequence of normal numbers named by `key`, times `scale`.
void fill_normal(uint64_t key, double scale, int64_t first, int64_t n, float* out) {
  const int64_t end = first + n;
  for (int64_t block = first / 2; block * 2 < end; ++block) {
    const NormalPair pair = normal_pair_at(key, static_cast<uint64_t>(block));
    const int64_t even = 2 * block;
    if (even >= first) out[even - first] = static_cast<float>(scale * pair.even);
    if (even + 1 < end) out[even + 1 - first] = static_cast<float>(scale * pair.odd);
  }
}

// `n` elements of `flat` from `begin` on, as fp32 on the host.
std::vector<float> to_host(Stream& stream, const Tensor& flat, int64_t begin, int64_t n) {
  std::vector<float> host(static_cast<size_t>(n));
  if (n == 0) return host;
  Tensor part = flat.slice(begin, begin + n);
  if (part.dtype() == DType::bf16) {
    Tensor wide = Tensor::empty(stream, part.shape(), DType::f32, MemoryTag::workspace);
    ops::cast(stream, part, wide);
    part = wide;
  }
  ops::copy_to_host(stream, part, host.data());
  stream.synchronize();
  return host;
}

// Elements [position, position + n) of a bucket into `flat`, which holds those from `flat_begin` on; what lies outside of
// it is left out.
void from_host(Stream& stream, Tensor& flat, int64_t flat_begin, int64_t position, int64_t n, const float* host) {
  const int64_t begin = std::max(position, flat_begin);
  const int64_t end = std::min(position + n, flat_begin + flat.numel());
  if (begin >= end) return;
  Tensor part = flat.slice(begin - flat_begin, end - flat_begin);
  if (part.dtype() == DType::f32) return ops::copy_from_host(stream, host + (begin - position), part);
  Tensor wide = Tensor::empty(stream, part.shape(), DType::f32, MemoryTag::workspace);
  ops::copy_from_host(stream, host + (begin - position), wide);
  ops::cast(stream, wide, part);
}

}  // namespace

const BucketSegment& Bucket::segment_of(const Parameter& parameter) const {
  for (const BucketSegment& segment : segments_) {
    if (segment.parameter == &parameter) return segment;
  }
  TRIREME_CHECK(false, "a parameter of another bucket");
  return segments_.front();
}

const Tensor& Bucket::shard(Buffer kind) const {
  switch (kind) {
    case Buffer::master: return master_.defined() ? master_ : value_shard_;
    case Buffer::gradient: return gradient_shard_;
    case Buffer::first_moment: return m_;
    case Buffer::second_moment: return v_;
  }
  return value_shard_;
}

Tensor Bucket::shard_of(const Parameter& parameter, Buffer kind) const {
  const BucketSegment& segment = segment_of(parameter);
  const int64_t begin = std::clamp(segment.begin, shard_begin_, shard_end_);
  const int64_t end = std::clamp(segment.end, shard_begin_, shard_end_);
  return shard(kind).slice(begin - shard_begin_, end - shard_begin_);
}

void Bucket::store(Stream& stream, Buffer kind, int64_t position, int64_t n, const float* host) {
  if (kind != Buffer::master) {
    Tensor flat = shard(kind);
    return from_host(stream, flat, shard_begin_, position, n, host);
  }
  if (value_.defined()) from_host(stream, value_, 0, position, n, host);
  if (stage_ == 3) from_host(stream, value_shard_, shard_begin_, position, n, host);
  const bool is_copy = master_.defined() && compute_ != DType::f32;
  if (is_copy) from_host(stream, master_, shard_begin_, position, n, host);
}

void Bucket::initialize(Stream& stream, uint64_t seed) {
  if (values_of_ != nullptr) return;
  for (const BucketSegment& segment : segments_) {
    const Parameter& parameter = *segment.parameter;
    // Local elements that this rank keeps.
    const int64_t first = stage_ < 3 ? 0 : std::clamp(shard_begin_, segment.begin, segment.end) - segment.begin;
    const int64_t last =
        (stage_ < 3 ? segment.end : std::clamp(shard_end_, segment.begin, segment.end)) - segment.begin;
    std::vector<float> host(static_cast<size_t>(last - first));  // zero where there is padding
    const uint64_t key = random_key(seed, parameter.name);
    const auto fill = [&](int64_t local, int64_t global, int64_t n) {
      float* out = host.data() + (local - first);
      if (parameter.init.kind == Initializer::Kind::normal) {
        fill_normal(key, parameter.init.value, global, n, out);
      } else {
        std::fill_n(out, n, static_cast<float>(parameter.init.value));
      }
    };
    stream.pool().for_ranges(last - first, kGrain, [&](int64_t begin, int64_t end) {
      parameter.part.for_each_run(parameter.shape, first + begin, first + end, fill);
    });
    store(stream, Buffer::master, segment.begin + first, last - first, host.data());
  }
}

void Bucket::read(Stream& stream, const Parameter& parameter, Buffer kind, float* host) const {
  const BucketSegment& segment = segment_of(parameter);
  const int64_t begin = std::clamp(segment.begin, shard_begin_, shard_end_);
  const int64_t end = std::clamp(segment.end, shard_begin_, shard_end_);
  if (begin == end || !shard(kind).defined()) return;
  const std::vector<float> held = to_host(stream, shard(kind), begin - shard_begin_, end - begin);
  const int64_t first = begin - segment.begin;
  parameter.part.for_each_run(
      parameter.shape, first, end - segment.begin,
      [&](int64_t local, int64_t global, int64_t n) { std::copy_n(held.data() + (local - first), n, host + global); });
}

void Bucket::write(Stream& stream, const Parameter& parameter, Buffer kind, const float* host) {
  if (!shard(kind).defined()) return;
  const BucketSegment& segment = segment_of(parameter);
  const int64_t n = segment.end - segment.begin;
  std::vector<float> local(static_cast<size_t>(n));  // zero where there is padding
  parameter.part.for_each_run(parameter.shape, 0, n, [&](int64_t to, int64_t from, int64_t count) {
    std::copy_n(host + from, count, local.data() + to);
  });
  store(stream, kind, segment.begin, n, local.data());
}

}  // namespace trireme
