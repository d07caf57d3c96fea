#include "core/ops/cross_entropy.h"

#include <cmath>

#include "core/ops/cuda/fast_math.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/cuda/vector.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// One block works on a row: it reads it once for the maximum and the sum of exponentials, and once more for the
// gradient. The front of the row waits in shared memory for that; what doesn't fit comes from the L2 cache, where the
// rows of all multiprocessors together have room for it.
constexpr int kMostThreads = 1024;
constexpr int64_t kCacheBytes = 160 << 10;  // what every GPU that we build for gives to one block
constexpr int kUnroll = 4;                  // vectors that a thread has under way

// `dlogits` is null in evaluation.
template <class TIn, class TOut>
struct Rows {
  const TIn* logits;
  const int32_t* labels;
  const float* grad_scale;
  float* losses;
  TOut* dlogits;
  int64_t rows;
  int64_t columns;
  int64_t cached_vectors;
};

// e^x for x <= 0.
template <class T>
__device__ __forceinline__ float exp_of_nonpositive(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return math::exp_of_nonpositive(x);
  } else {
    return Fast::exp(x);
  }
}

// How a row at any address divides: `head` elements up to the first whole vector, the vectors, a tail. Thread t has
// every so many-th vector, and element t of head and tail.
template <class T>
struct Cut {
  static constexpr int kWidth = kVector<T>;
  int64_t head;
  int64_t vectors;
  int64_t columns;

  __device__ Cut(const T* row, int64_t num_columns) : columns(num_columns) {
    head = static_cast<int64_t>((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
    if (head > columns) head = columns;
    vectors = (columns - head) / kWidth;
  }
  __device__ int64_t begin(int64_t vector) const { return head + vector * kWidth; }
  __device__ int64_t num_edges() const { return columns - vectors * kWidth; }
  __device__ int64_t edge(int64_t t) const { return t < head ? t : t + vectors * kWidth; }
  // The thread that has this element.
  __device__ int64_t owner(int64_t column) const {
    if (column < head) return column;
    const int64_t vector = (column - head) / kWidth;
    return vector < vectors ? vector % blockDim.x : column - vectors * kWidth;
  }
};

constexpr float kMinusInfinity = -INFINITY;

// Of elements so far: their maximum and Σ e^(x − maximum), where −∞ as the maximum counts as 0.
struct LogSumExp {
  float max = kMinusInfinity;
  float sum = 0;
};

__device__ __forceinline__ float shift_of(float max) { return max > kMinusInfinity ? max : 0.0f; }

template <class T, int kN>
__device__ __forceinline__ void add_to(LogSumExp& total, const Floats<kN>& x) {
  float max = total.max;
#pragma unroll
  for (int j = 0; j < kN; ++j) max = fmaxf(max, x.x[j]);  // leaves a NaN to the sum
  if (max > total.max) {
    total.sum *= exp_of_nonpositive<T>(total.max - max);
    total.max = max;
  }
  const float shift = shift_of(max);
#pragma unroll
  for (int j = 0; j < kN; ++j) total.sum += exp_of_nonpositive<T>(x.x[j] - shift);
}

// Of the whole block. Two barriers.
struct RowTotal {
  float max;
  double sum;

  __device__ double value() const { return static_cast<double>(max) + std::log(sum); }
};

template <class T>
__device__ RowTotal block_total(const LogSumExp& mine) {
  __shared__ float maxima[kMaxWarps];
  __shared__ double sums[kMaxWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  const float warp_maximum = warp_max(mine.max);
  if (lane == 0) maxima[warp] = warp_maximum;
  __syncthreads();
  const float max = warp_max(lane < num_warps ? maxima[lane] : kMinusInfinity);
  const float factor = mine.max > kMinusInfinity ? exp_of_nonpositive<T>(mine.max - max) : 1.0f;
  return {max, group_sum(static_cast<double>(mine.sum * factor), sums, warp, num_warps)};
}

template <class TIn, int kWidth>
__device__ LogSumExp read_row(const TIn* row, const Cut<TIn>& cut, Raw<TIn, kWidth>* cache, int64_t cached) {
  LogSumExp total;
  const int64_t thread = threadIdx.x;
  const int64_t threads = blockDim.x;
  for (int64_t first = thread; first < cut.vectors; first += kUnroll * threads) {
    Raw<TIn, kWidth> raw[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t v = first + u * threads;
      if (v < cut.vectors) raw[u] = load_raw<kWidth>(row + cut.begin(v));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t v = first + u * threads;
      if (v >= cut.vectors) break;
      if (v < cached) cache[v] = raw[u];
      add_to<TIn>(total, widen(raw[u]));
    }
  }
  if (thread < cut.num_edges()) add_to<TIn>(total, load<1>(row + cut.edge(thread)));
  return total;
}

template <class TOut, int kWidth>
__device__ __forceinline__ void write_vector(TOut* d, bool aligned, const Floats<kWidth>& values) {
  if (aligned) return store<kWidth>(d, values);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) math::store(d + j, values.x[j]);
}

// d[i] = e^(row[i] − shift) · factor; zeros, where factor is 0.
template <class TIn, class TOut, int kWidth>
__device__ void write_row(const TIn* row, const Cut<TIn>& cut, const Raw<TIn, kWidth>* cache, int64_t cached,
                          float shift, float factor, TOut* d) {
  const int64_t thread = threadIdx.x;
  const bool aligned = reinterpret_cast<uintptr_t>(d + cut.head) % alignof(Raw<TOut, kWidth>) == 0;
  for (int64_t v = thread; v < cut.vectors; v += blockDim.x) {
    Floats<kWidth> x = widen(v < cached ? cache[v] : load_raw<kWidth>(row + cut.begin(v)));
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x.x[j] = exp_of_nonpositive<TIn>(x.x[j] - shift) * factor;
    write_vector(d + cut.begin(v), aligned, x);
  }
  if (thread < cut.num_edges()) {
    const int64_t i = cut.edge(thread);
    math::store(d + i, exp_of_nonpositive<TIn>(math::load(row + i) - shift) * factor);
  }
}

template <class TIn, class TOut>
__device__ void zero_row(const Cut<TIn>& cut, TOut* d) {
  constexpr int kWidth = kVector<TIn>;
  const bool aligned = reinterpret_cast<uintptr_t>(d + cut.head) % alignof(Raw<TOut, kWidth>) == 0;
  for (int64_t v = threadIdx.x; v < cut.vectors; v += blockDim.x) {
    write_vector(d + cut.begin(v), aligned, Floats<kWidth>{});
  }
  if (threadIdx.x < cut.num_edges()) math::store(d + cut.edge(threadIdx.x), 0.0f);
}

template <class TIn, class TOut>
__global__ void __launch_bounds__(kMostThreads) cross_entropy_rows(Rows<TIn, TOut> rows) {
  constexpr int kWidth = kVector<TIn>;
  const int64_t n = rows.rows - 1 - blockIdx.x;  // the last rows, which the GEMM wrote last, are still in the cache
  const TIn* row = rows.logits + n * rows.columns;
  TOut* d = rows.dlogits != nullptr ? rows.dlogits + n * rows.columns : nullptr;
  const Cut<TIn> cut(row, rows.columns);
  const int32_t label = rows.labels[n];
  if (label == ops::kIgnoredLabel) {
    if (threadIdx.x == 0) rows.losses[n] = 0;
    if (d != nullptr) zero_row(cut, d);
    return;
  }
  const double logit = math::load(row + label);  // in place, the row is about to go
  auto* cache = dynamic_shared<Raw<TIn, kWidth>>();
  const RowTotal total = block_total<TIn>(read_row<TIn, kWidth>(row, cut, cache, rows.cached_vectors));
  if (threadIdx.x == 0) rows.losses[n] = static_cast<float>(total.value() - logit);
  if (d == nullptr) return;
  const double scale = *rows.grad_scale;
  write_row<TIn, TOut, kWidth>(row, cut, cache, rows.cached_vectors, shift_of(total.max),
                               static_cast<float>(scale / total.sum), d);
  if (threadIdx.x == cut.owner(label)) {
    // p − 1 is formed in fp64, where p near 1 keeps digits.
    const double p = std::exp(logit - total.value());
    math::store(d + label, static_cast<float>((p - 1.0) * scale));
  }
}

template <class TIn, class TOut>
void launch_rows(Stream& stream, Rows<TIn, TOut> rows) {
  const int64_t vectors = rows.columns / kVector<TIn>;
  if (rows.dlogits != nullptr) rows.cached_vectors = std::min(vectors, kCacheBytes / 16);
  const int64_t threads = std::clamp<int64_t>(ceil_div(vectors, kWarp) * kWarp, kWarp, kMostThreads);
  launch(stream, grid_size(rows.rows), static_cast<unsigned>(threads), rows.cached_vectors * 16,
         cross_entropy_rows<TIn, TOut>, rows);
}

__global__ void invert(const int64_t* count, float* scale) {
  *scale = *count > 0 ? static_cast<float>(1.0 / static_cast<double>(*count)) : 0.0f;
}

}  // namespace

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& grad_scale, Tensor& losses,
                   Tensor& dlogits) {
  const bool gradient = dlogits.defined();
  with_float_type(logits.dtype(), [&]<class TIn>(TIn) {
    with_float_type(gradient ? dlogits.dtype() : DType::f32, [&]<class TOut>(TOut) {
      launch_rows<TIn, TOut>(stream, {.logits = logits.data<TIn>(),
                                      .labels = labels.data<int32_t>(),
                                      .grad_scale = gradient ? grad_scale.data<float>() : nullptr,
                                      .losses = losses.data<float>(),
                                      .dlogits = gradient ? dlogits.data<TOut>() : nullptr,
                                      .rows = logits.dim(0),
                                      .columns = logits.dim(1),
                                      .cached_vectors = 0});
    });
  });
}

void inverse_count(Stream& stream, const Tensor& count, Tensor& scale) {
  launch(stream, 1, 1, 0, invert, count.data<int64_t>(), scale.data<float>());
}

}  // namespace trireme::cuda
