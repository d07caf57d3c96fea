#include "parallel/zero/bucket.h"

#include "core/device/thread_pool.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"

namespace trireme {

namespace {

constexpr int64_t kAlignment = 64;  // elements

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

Bucket::Bucket(Stream& stream, std::string name, std::vector<Weight*> weights, const Options& options)
    : name_(std::move(name)), weights_(std::move(weights)), compute_(options.compute) {
  TRIREME_CHECK(!weights_.empty());
  TRIREME_CHECK(options.with_master || compute_ == DType::bf16, "fp32 weights are their own master");
  reduce_axes_ = weights_.front()->parts.front().gradient_placement.partial_axes();
  int64_t n = 0;
  for (const Weight* weight : weights_) {
    n = round_up(n, kAlignment);
    offsets_.push_back(n);
    for (const Parameter& part : weight->parts) {
      TRIREME_CHECK(part.gradient_placement.partial_axes() == reduce_axes_, "a bucket of different reductions");
      segments_.push_back({n, n + part.shape.numel(), &part});
      n += part.shape.numel();
    }
  }
  n = round_up(n, kAlignment * options.divisor);

  const auto zeros = [&](DType dtype, MemoryTag tag) {
    Tensor t = Tensor::empty(stream, {n}, dtype, tag);
    ops::fill(stream, t, 0);
    return t;
  };
  value_ = zeros(compute_, MemoryTag::parameters);
  gradient_ = zeros(options.gradients, MemoryTag::gradients);
  if (options.with_optimizer_states) {
    if (options.with_master) master_ = compute_ == DType::f32 ? value_ : zeros(DType::f32, MemoryTag::optimizer);
    m_ = zeros(options.states, MemoryTag::optimizer);
    v_ = zeros(options.states, MemoryTag::optimizer);
  }
  for (size_t i = 0; i < weights_.size(); ++i) {
    Weight& weight = *weights_[i];
    weight.value = value_.flat_slice(offsets_[i], weight.shape());
    weight.gradient = gradient_.flat_slice(offsets_[i], weight.shape());
    int64_t offset = offsets_[i];
    for (Parameter& part : weight.parts) {
      part.value = value_.flat_slice(offset, part.shape);
      part.gradient = gradient_.flat_slice(offset, part.shape);
      offset += part.shape.numel();
    }
  }
}

void Bucket::initialize(Stream& stream, uint64_t seed) {
  for (Weight* weight : weights_) {
    for (const Parameter& part : weight->parts) {
      const int64_t n = part.shape.numel();
      std::vector<float> host(static_cast<size_t>(n), static_cast<float>(part.init.value));
      if (part.init.kind == Initializer::Kind::normal) {
        const uint64_t key = random_key(seed, part.name);
        stream.pool().for_ranges(n, 16384, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; i += 2) {  // begin is even
            const NormalPair pair = normal_pair_at(key, static_cast<uint64_t>(i / 2));
            host[static_cast<size_t>(i)] = static_cast<float>(part.init.value * pair.even);
            if (i + 1 < end) host[static_cast<size_t>(i + 1)] = static_cast<float>(part.init.value * pair.odd);
          }
        });
      }
      write(stream, part, Buffer::master, host.data());
    }
  }
}

void Bucket::begin_step() {
  for (Weight* weight : weights_) weight->gradient_written = false;
}

void Bucket::finish_gradients(Stream& stream) {
  for (Weight* weight : weights_) {
    if (!weight->accumulate_gradient()) ops::fill(stream, weight->gradient, 0);
  }
}

int64_t Bucket::offset_of(const Parameter& parameter) const {
  for (size_t i = 0; i < weights_.size(); ++i) {
    int64_t offset = offsets_[i];
    for (const Parameter& part : weights_[i]->parts) {
      if (&part == &parameter) return offset;
      offset += part.shape.numel();
    }
  }
  TRIREME_CHECK(false, "a parameter of another bucket");
  return 0;
}

Tensor Bucket::view_of(const Tensor& flat, const Parameter& parameter) const {
  return flat.flat_slice(offset_of(parameter), parameter.shape);
}

const Tensor& Bucket::buffer(Buffer kind) const {
  switch (kind) {
    case Buffer::master: return master_.defined() ? master_ : value_;
    case Buffer::gradient: return gradient_;
    case Buffer::first_moment: return m_;
    case Buffer::second_moment: return v_;
  }
  return value_;
}

void Bucket::read(Stream& stream, const Parameter& parameter, Buffer kind, float* host) const {
  Tensor view = view_of(buffer(kind), parameter);
  if (view.dtype() == DType::bf16) {
    Tensor wide = Tensor::empty(stream, view.shape(), DType::f32, MemoryTag::workspace);
    ops::cast(stream, view, wide);
    view = wide;
  }
  ops::copy_to_host(stream, view, host);
  stream.synchronize();
}

void Bucket::write(Stream& stream, const Parameter& parameter, Buffer kind, const float* host) {
  Tensor view = view_of(buffer(kind), parameter);
  Tensor wide =
      view.dtype() == DType::f32 ? view : Tensor::empty(stream, parameter.shape, DType::f32, MemoryTag::workspace);
  ops::copy_from_host(stream, host, wide);
  if (view.dtype() == DType::bf16) ops::cast(stream, wide, view);
  if (kind == Buffer::master && value_.dtype() == DType::bf16 && view.dtype() == DType::f32) {
    Tensor narrow = view_of(value_, parameter);
    ops::cast(stream, wide, narrow);
  }
}

}  // namespace trireme
