#include "core/ops/cross_entropy.h"

#include <cmath>

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/fast_math.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/cuda/vector.h"
#include "core/ops/float_type.h"
#include "core/ops/part_stats.h"

namespace trireme::cuda {

namespace {

// One block works on a row: it reads it once for the maximum and the sum of exponentials, and once more for the
// gradient. The front of the row waits in shared memory for that; what doesn't fit comes from the L2 cache, where the
// rows of all multiprocessors together have room for it.
constexpr int kMostThreads = 1024;
constexpr int64_t kMostCacheBytes = 160 << 10;
constexpr int64_t kOtherSharedBytes = 3 << 10;  // what else the block keeps in shared memory, and more
constexpr int kUnroll = 4;                      // vectors that a thread has under way

// `dlogits` is null in evaluation.
template <class TIn, class TOut>
struct Rows {
  const TIn* logits;
  const int32_t* labels;
  const float* grad_scale;
  float* losses;
  TOut* dlogits;
  int64_t rows;
  int64_t columns;  // in the softmax
  int64_t width;    // with the padding behind them
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
  const TIn* row = rows.logits + n * rows.width;
  TOut* d = rows.dlogits != nullptr ? rows.dlogits + n * rows.width : nullptr;
  if (d != nullptr) {
    for (int64_t i = rows.columns + threadIdx.x; i < rows.width; i += blockDim.x) math::store(d + i, 0.0f);
  }
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

// One block works on a row of a part.
template <class TIn>
__global__ void __launch_bounds__(kMostThreads)
    part_stats(const TIn* logits, const int32_t* labels, ops::VocabularyPart part, int64_t width,
               ops::PartStats* stats) {
  const int64_t n = blockIdx.x;
  const int32_t label = labels[n];
  if (label == ops::kIgnoredLabel) {
    if (threadIdx.x == 0) stats[n] = {kMinusInfinity, 0, kMinusInfinity};
    return;
  }
  const TIn* row = logits + n * width;
  const Cut<TIn> cut(row, part.size);
  const RowTotal total = block_total<TIn>(read_row<TIn, kVector<TIn>>(row, cut, nullptr, 0));
  if (threadIdx.x != 0) return;
  const int64_t index = part.index_of(label);
  stats[n] = {total.max, static_cast<float>(total.sum), index >= 0 ? math::load(row + index) : kMinusInfinity};
}

// What a row's gradient needs: e^(x − shift) · factor, and that of the label.
struct RowGradient {
  float shift;
  float factor;
  float of_label;
};

// One thread to a row. `gradients` is null in evaluation.
__global__ void __launch_bounds__(kElementThreads)
    combine_rows(const ops::PartStats* stats, int64_t num_parts, const int32_t* labels, int64_t rows,
                 const float* grad_scale, float* losses, RowGradient* gradients) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
  if (n >= rows) return;
  if (labels[n] == ops::kIgnoredLabel) {
    losses[n] = 0;
    return;
  }
  const ops::SoftmaxTotal total = ops::combine_parts(stats + n, num_parts, rows);
  const double log_sum = total.log_sum();
  losses[n] = static_cast<float>(log_sum - total.label_logit);
  if (gradients == nullptr) return;
  const double scale = *grad_scale;
  const double p = std::exp(total.label_logit - log_sum);  // p − 1 is formed in fp64, where p near 1 keeps digits
  gradients[n] = {shift_of(total.max), static_cast<float>(scale / total.sum), static_cast<float>((p - 1.0) * scale)};
}

// dlogits of a part, element by element.
template <class TIn, class TOut>
struct PartGradient {
  const TIn* logits;
  const int32_t* labels;
  const RowGradient* gradients;
  ops::VocabularyPart part;
  TOut* dlogits;
  int64_t width;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    Floats<kN> d{};
    const int32_t label = labels[row];
    if (label != ops::kIgnoredLabel) {
      const RowGradient gradient = gradients[row];
      const int64_t of_label = part.index_of(label) - column;
      const Floats<kN> x = load<kN>(logits + row * width + column);
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        d.x[j] = exp_of_nonpositive<TIn>(x.x[j] - gradient.shift) * gradient.factor;
        if (j == of_label) d.x[j] = gradient.of_label;
        if (column + j >= part.size) d.x[j] = 0;
      }
    }
    store<kN>(dlogits + row * width + column, d);
  }
};

template <class TIn>
void launch_combined(Stream& stream, const Tensor& logits, const Tensor& labels, const ops::VocabularyPart& part,
                     const Tensor& stats_of_all, const Tensor& grad_scale, Tensor& losses, Tensor& dlogits) {
  const int64_t rows = logits.dim(0);
  const bool gradient = dlogits.defined();
  Tensor gradients;
  if (gradient) gradients = Tensor::empty(stream, {rows, 3}, DType::f32, MemoryTag::workspace);
  auto* row_gradients = gradient ? reinterpret_cast<RowGradient*>(gradients.data<float>()) : nullptr;
  launch(stream, grid_size(ceil_div(rows, kElementThreads)), kElementThreads, 0, combine_rows,
         reinterpret_cast<const ops::PartStats*>(stats_of_all.data<float>()), stats_of_all.dim(0),
         labels.data<int32_t>(), rows, gradient ? grad_scale.data<float>() : nullptr, losses.data<float>(),
         row_gradients);
  if (!gradient) return;
  with_float_type(dlogits.dtype(), [&]<class TOut>(TOut) {
    constexpr int kWidth = kVector<TIn>;
    const PartGradient<TIn, TOut> op{.logits = logits.data<TIn>(),
                                     .labels = labels.data<int32_t>(),
                                     .gradients = row_gradients,
                                     .part = part,
                                     .dlogits = dlogits.data<TOut>(),
                                     .width = logits.dim(1)};
    const bool aligned = op.width % kWidth == 0 && is_aligned<kWidth>(op.logits) && is_aligned<kWidth>(op.dlogits);
    for_rows<kWidth>(stream, rows, op.width, aligned, op);
  });
}

template <class TIn>
int64_t threads_of_row(int64_t columns) {
  return std::clamp<int64_t>(ceil_div(columns / kVector<TIn>, kWarp) * kWarp, kWarp, kMostThreads);
}

template <class TIn, class TOut>
void launch_rows(Stream& stream, Rows<TIn, TOut> rows) {
  const int64_t vectors = rows.columns / kVector<TIn>;
  if (rows.dlogits != nullptr) {
    rows.cached_vectors =
        std::min(vectors, std::min(kMostCacheBytes, most_shared_bytes(stream) - kOtherSharedBytes) / 16);
  }
  const int64_t threads = threads_of_row<TIn>(rows.columns);
  launch(stream, grid_size(rows.rows), static_cast<unsigned>(threads), rows.cached_vectors * 16,
         cross_entropy_rows<TIn, TOut>, rows);
}

__global__ void invert(const int64_t* count, float* scale) {
  *scale = *count > 0 ? static_cast<float>(1.0 / static_cast<double>(*count)) : 0.0f;
}

}  // namespace

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const ops::VocabularyPart& part,
                   const Tensor& stats_of_all, const Tensor& grad_scale, Tensor& losses, Tensor& dlogits) {
  const bool gradient = dlogits.defined();
  with_float_type(logits.dtype(), [&]<class TIn>(TIn) {
    if (stats_of_all.defined()) {
      return launch_combined<TIn>(stream, logits, labels, part, stats_of_all, grad_scale, losses, dlogits);
    }
    with_float_type(gradient ? dlogits.dtype() : DType::f32, [&]<class TOut>(TOut) {
      launch_rows<TIn, TOut>(stream, {.logits = logits.data<TIn>(),
                                      .labels = labels.data<int32_t>(),
                                      .grad_scale = gradient ? grad_scale.data<float>() : nullptr,
                                      .losses = losses.data<float>(),
                                      .dlogits = gradient ? dlogits.data<TOut>() : nullptr,
                                      .rows = logits.dim(0),
                                      .columns = part.size,
                                      .width = logits.dim(1),
                                      .cached_vectors = 0});
    });
  });
}

void cross_entropy_stats(Stream& stream, const Tensor& logits, const Tensor& labels, const ops::VocabularyPart& part,
                         Tensor& stats) {
  with_float_type(logits.dtype(), [&]<class TIn>(TIn) {
    launch(stream, grid_size(logits.dim(0)), static_cast<unsigned>(threads_of_row<TIn>(part.size)), 0, part_stats<TIn>,
           logits.data<TIn>(), labels.data<int32_t>(), part, logits.dim(1),
           reinterpret_cast<ops::PartStats*>(stats.data<float>()));
  });
}

void inverse_count(Stream& stream, const Tensor& count, Tensor& scale) {
  launch(stream, 1, 1, 0, invert, count.data<int64_t>(), scale.data<float>());
}

}  // namespace trireme::cuda
