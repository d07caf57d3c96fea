#include "core/ops/elementwise.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// Four elements of a type that is only stored.
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Four {
  T x[4];
};

template <class T>
struct Fill {
  T* x;
  T value;

  template <int kN>
  __device__ void run(int64_t i) const {
    if constexpr (kN == 4) {
      *reinterpret_cast<Four<T>*>(x + i) = {{value, value, value, value}};
    } else {
      x[i] = value;
    }
  }
};

template <class T>
void fill_with(Stream& stream, void* data, int64_t n, T value) {
  for_elements<4>(stream, n, /*aligned=*/reinterpret_cast<uintptr_t>(data) % alignof(Four<T>) == 0,
                  Fill<T>{static_cast<T*>(data), value});
}

template <class From, class To>
struct Cast {
  const From* x;
  To* y;

  template <int kN>
  __device__ void run(int64_t i) const {
    store<kN>(y + i, load<kN>(x + i));
  }
};

template <class From, class To>
void cast_to(Stream& stream, const Tensor& x, Tensor& y) {
  constexpr int kWidth = kVector<float>;
  const From* from = x.data<From>();
  To* to = y.data<To>();
  for_elements<kWidth>(stream, x.numel(), is_aligned<kWidth>(from) && is_aligned<kWidth>(to), Cast<From, To>{from, to});
}

template <class A, class T>
struct Add {
  const A* a;
  const T* b;
  T* y;

  template <int kN>
  __device__ void run(int64_t i) const {
    const Floats<kN> p = load<kN>(a + i);
    const Floats<kN> q = load<kN>(b + i);
    Floats<kN> sum;
#pragma unroll
    for (int j = 0; j < kN; ++j) sum.x[j] = p.x[j] + q.x[j];
    store<kN>(y + i, sum);
  }
};

struct Scale {
  float* x;
  float factor;

  template <int kN>
  __device__ void run(int64_t i) const {
    Floats<kN> value = load<kN>(x + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) value.x[j] *= factor;
    store<kN>(x + i, value);
  }
};

// Sums: block b of at most kSumBlocks adds its part of x into partial[b]; then one block adds those.
constexpr int kSumThreads = 512;
constexpr int64_t kSumBlocks = 528;       // four for each of 132 multiprocessors
constexpr int64_t kLeastOfABlock = 8192;  // elements

template <bool kSquare>
__device__ __forceinline__ double sum_term(float x) {
  const double value = x;
  return kSquare ? value * value : value;
}

__device__ double block_sum(double value) {
  __shared__ double slots[kSumThreads / kWarp];
  return group_sum(value, slots, static_cast<int>(threadIdx.x) / kWarp, kSumThreads / kWarp);
}

template <bool kSquare, class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_parts(const T* x, int64_t n, int64_t part, bool aligned, double* partial) {
  const int64_t begin = blockIdx.x * part;
  const int64_t end = begin + part < n ? begin + part : n;
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0;
  if (aligned) {
    constexpr int kWidth = kVector<T>;
    const int64_t whole = begin + (end - begin) / kWidth * kWidth;
    double chains[kWidth] = {};
    for (int64_t i = begin + thread * kWidth; i < whole; i += kSumThreads * kWidth) {
      const Floats<kWidth> values = load<kWidth>(x + i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) chains[j] += sum_term<kSquare>(values.x[j]);
    }
#pragma unroll
    for (int j = 0; j < kWidth; j += 2) sum += chains[j] + chains[j + 1];
    if (whole + thread < end) sum += sum_term<kSquare>(math::load(x + whole + thread));
  } else {
    for (int64_t i = begin + thread; i < end; i += kSumThreads) sum += sum_term<kSquare>(math::load(x + i));
  }
  sum = block_sum(sum);
  if (thread == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads)
    add_parts(const double* partial, int64_t num_parts, bool accumulate, double* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < num_parts; i += kSumThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = accumulate ? *out + sum : sum;
}

template <bool kSquare, class T>
void sum_all(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  const T* in = x.data<T>();
  const int64_t n = x.numel();
  // A multiple of kLeastOfABlock, so that every part begins as x is aligned.
  const int64_t part = ceil_div(ceil_div(n, kLeastOfABlock), kSumBlocks) * kLeastOfABlock;
  const int64_t num_parts = n == 0 ? 0 : ceil_div(n, part);
  const Tensor partial = Tensor::empty(stream, {num_parts}, DType::f64, MemoryTag::workspace);
  double* sums = partial.data<double>();
  launch(stream, grid_size(num_parts), kSumThreads, 0, sum_parts<kSquare, T>, in, n, part, is_aligned<kVector<T>>(in),
         sums);
  launch(stream, 1, kSumThreads, 0, add_parts, sums, num_parts, accumulate, out.data<double>());
}

}  // namespace

void fill(Stream& stream, Tensor& x, double value) {
  const int64_t n = x.numel();
  switch (x.dtype()) {
    case DType::f32: return fill_with(stream, x.raw(), n, static_cast<float>(value));
    case DType::bf16: return fill_with(stream, x.raw(), n, bf16(static_cast<float>(value)).bits);
    case DType::f64: return fill_with(stream, x.raw(), n, value);
    case DType::i32: return fill_with(stream, x.raw(), n, static_cast<int32_t>(value));
    case DType::i64: return fill_with(stream, x.raw(), n, static_cast<int64_t>(value));
    case DType::u8: return fill_with(stream, x.raw(), n, static_cast<uint8_t>(value));
  }
}

void copy(Stream& stream, const Tensor& x, Tensor& y) {
  if (x.raw() == y.raw() || x.bytes() == 0) return;
  CudaStream& cuda_stream = as_cuda(stream);
  cuda_stream.activate();
  check(
      cudaMemcpyAsync(y.raw(), x.raw(), static_cast<size_t>(x.bytes()), cudaMemcpyDeviceToDevice, cuda_stream.handle()),
      "copy a tensor on " + stream.device().str());
}

void copy_to_host(Stream& stream, const Tensor& x, void* host) { as_cuda(stream).download(x.raw(), host, x.bytes()); }

void copy_from_host(Stream& stream, const void* host, Tensor& x) { as_cuda(stream).upload(host, x.raw(), x.bytes()); }

void cast(Stream& stream, const Tensor& x, Tensor& y) {
  if (x.dtype() == y.dtype()) return copy(stream, x, y);
  if (x.dtype() == DType::f32) {
    cast_to<float, bf16>(stream, x, y);
  } else {
    cast_to<bf16, float>(stream, x, y);
  }
}

void add(Stream& stream, const Tensor& a, const Tensor& b, Tensor& y) {
  with_float_type(a.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const Add<T, T> op{a.data<T>(), b.data<T>(), y.data<T>()};
    const bool aligned = is_aligned<kWidth>(op.a) && is_aligned<kWidth>(op.b) && is_aligned<kWidth>(op.y);
    for_elements<kWidth>(stream, a.numel(), aligned, op);
  });
}

void accumulate(Stream& stream, const Tensor& x, Tensor& y, bool accumulate) {
  if (!accumulate) return cast(stream, x, y);
  with_float_type(y.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<float>;
    const Add<float, T> op{x.data<float>(), y.data<T>(), y.data<T>()};
    for_elements<kWidth>(stream, x.numel(), is_aligned<kWidth>(op.a) && is_aligned<kWidth>(op.y), op);
  });
}

void scale(Stream& stream, Tensor& x, float factor) {
  constexpr int kWidth = kVector<float>;
  float* data = x.data<float>();
  for_elements<kWidth>(stream, x.numel(), is_aligned<kWidth>(data), Scale{data, factor});
}

void sum(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  sum_all<false, float>(stream, x, out, accumulate);
}

void sum_squares(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  with_float_type(x.dtype(), [&]<class T>(T) { sum_all<true, T>(stream, x, out, accumulate); });
}

}  // namespace trireme::cuda
