#include "core/ops/elementwise.h"

#include <cstring>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kCopyBytes = 256 * 1024;  // of one piece
constexpr int64_t kSumBlock = 32768;        // elements whose sum is one partial sum

template <class From, class To>
TRIREME_MULTIVERSION void cast_range(const From* x, To* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, math::load(x + i));
}

template <class A, class T>
TRIREME_MULTIVERSION void add_range(const A* a, const T* b, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, math::load(a + i) + math::load(b + i));
}

TRIREME_MULTIVERSION void scale_range(float* x, float factor, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// Two chains of additions hide the latency of one.
template <bool kSquare, class T>
TRIREME_MULTIVERSION double sum_range(const T* x, int64_t n) {
  const int64_t half = n / 2;
  double a = 0;
  double b = 0;
#pragma omp simd reduction(+ : a, b)
  for (int64_t i = 0; i < half; ++i) {
    const double p = math::load(x + i);
    const double q = math::load(x + half + i);
    a += kSquare ? p * p : p;
    b += kSquare ? q * q : q;
  }
  if (n % 2 == 1) {
    const double last = math::load(x + n - 1);
    a += kSquare ? last * last : last;
  }
  return a + b;
}

template <bool kSquare, class T>
void sum_all(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  const T* in = x.data<T>();
  double* total = out.data<double>();
  const int64_t n = x.numel();
  if (!accumulate) *total = 0;
  if (n <= kSumBlock) {
    *total += sum_range<kSquare>(in, n);
    return;
  }
  const int64_t num_blocks = (n + kSumBlock - 1) / kSumBlock;
  const Tensor partial = Tensor::empty(stream, {num_blocks}, DType::f64, MemoryTag::workspace);
  double* sums = partial.data<double>();
  stream.pool().for_ranges(n, kSumBlock, [&](int64_t begin, int64_t end) {
    sums[begin / kSumBlock] = sum_range<kSquare>(in + begin, end - begin);
  });
  double sum = 0;
  for (int64_t b = 0; b < num_blocks; ++b) sum += sums[b];
  *total += sum;
}

void copy_bytes(ThreadPool& pool, const void* from, void* to, int64_t bytes) {
  if (from == to) return;
  pool.for_ranges(bytes, kCopyBytes, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin,
                static_cast<size_t>(end - begin));
  });
}

template <class T>
void fill_with(ThreadPool& pool, Tensor& x, T value) {
  T* data = x.data<T>();
  pool.for_ranges(x.numel(), kGrain, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, value); });
}

}  // namespace

void fill(Stream& stream, Tensor& x, double value) {
  ThreadPool& pool = stream.pool();
  switch (x.dtype()) {
    case DType::f32: return fill_with(pool, x, static_cast<float>(value));
    case DType::bf16: return fill_with(pool, x, bf16(static_cast<float>(value)));
    case DType::f64: return fill_with(pool, x, value);
    case DType::i32: return fill_with(pool, x, static_cast<int32_t>(value));
    case DType::i64: return fill_with(pool, x, static_cast<int64_t>(value));
    case DType::u8: return fill_with(pool, x, static_cast<uint8_t>(value));
  }
}

void copy(Stream& stream, const Tensor& x, Tensor& y) { copy_bytes(stream.pool(), x.raw(), y.raw(), x.bytes()); }

void copy_to_host(Stream& stream, const Tensor& x, void* host) { copy_bytes(stream.pool(), x.raw(), host, x.bytes()); }

void copy_from_host(Stream& stream, const void* host, Tensor& x) {
  copy_bytes(stream.pool(), host, x.raw(), x.bytes());
}

void cast(Stream& stream, const Tensor& x, Tensor& y) {
  if (x.dtype() == y.dtype()) return copy(stream, x, y);
  stream.pool().for_ranges(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    if (x.dtype() == DType::f32) {
      cast_range(x.data<float>() + begin, y.data<bf16>() + begin, end - begin);
    } else {
      cast_range(x.data<bf16>() + begin, y.data<float>() + begin, end - begin);
    }
  });
}

void add(Stream& stream, const Tensor& a, const Tensor& b, Tensor& y) {
  with_float_type(a.dtype(), [&]<class T>(T) {
    const T* p = a.data<T>();
    const T* q = b.data<T>();
    T* out = y.data<T>();
    stream.pool().for_ranges(a.numel(), kGrain, [&](int64_t begin, int64_t end) {
      add_range(p + begin, q + begin, out + begin, end - begin);
    });
  });
}

void accumulate(Stream& stream, const Tensor& x, Tensor& y, bool accumulate) {
  if (!accumulate) return cast(stream, x, y);
  with_float_type(y.dtype(), [&]<class T>(T) {
    const float* p = x.data<float>();
    T* out = y.data<T>();
    stream.pool().for_ranges(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      add_range(p + begin, out + begin, out + begin, end - begin);
    });
  });
}

void scale(Stream& stream, Tensor& x, float factor) {
  float* data = x.data<float>();
  stream.pool().for_ranges(x.numel(), kGrain,
                           [&](int64_t begin, int64_t end) { scale_range(data + begin, factor, end - begin); });
}

void sum(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  sum_all<false, float>(stream, x, out, accumulate);
}

void sum_squares(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  with_float_type(x.dtype(), [&]<class T>(T) { sum_all<true, T>(stream, x, out, accumulate); });
}

}  // namespace trireme::cpu
