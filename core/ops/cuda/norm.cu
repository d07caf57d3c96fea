#include "core/ops/norm.h"

#include <cmath>

#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/cuda/vector.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// One warp works on a row, which it keeps in shared memory where a row is not too long for that.
constexpr int kMostRowsPerBlock = 8;
constexpr int kUnroll = 4;  // vectors that a thread has under way

// Rows of one call. `bias` and `mean` are null for RMS norm; `added` is null unless a residual is added first.
template <class T>
struct ForwardRows {
  const T* x;
  const T* added;
  T* sum;  // x + added; may be x
  const T* weight;
  const T* bias;
  T* y;
  float* mean;
  float* rstd;
  float eps;
  int64_t rows;
  int64_t columns;
  int64_t cached_columns;  // of a row in shared memory: `columns` and what aligns the next, or 0
};

// Writes x + added where there is one, keeps the row in `cache` where there is one, and sums x or x².
template <class T, int kWidth, bool kLayer>
__device__ float first_pass(const ForwardRows<T>& rows, int64_t row, int lane, T* cache) {
  constexpr int64_t kStep = kWarp * kWidth;
  const T* x = rows.x + row;
  float total = 0;
  for (int64_t first = lane * kWidth; first < rows.columns; first += kUnroll * kStep) {
    Raw<T, kWidth> raw[kUnroll];
    Raw<T, kWidth> added[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * kStep;
      if (i < rows.columns) raw[u] = load_raw<kWidth>(x + i);
    }
    if (rows.added != nullptr) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t i = first + u * kStep;
        if (i < rows.columns) added[u] = load_raw<kWidth>(rows.added + row + i);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * kStep;
      if (i >= rows.columns) break;
      if (rows.added != nullptr) {
        Floats<kWidth> sum = widen(raw[u]);
        const Floats<kWidth> b = widen(added[u]);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sum.x[j] += b.x[j];
        raw[u] = narrow<T>(sum);
        store_raw(rows.sum + row + i, raw[u]);
      }
      if (cache != nullptr) store_raw(cache + i, raw[u]);
      const Floats<kWidth> value = widen(raw[u]);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) total = kLayer ? total + value.x[j] : std::fma(value.x[j], value.x[j], total);
    }
  }
  return warp_sum(total);
}

template <class T, int kWidth, bool kLayer>
__global__ void __launch_bounds__(kMostRowsPerBlock* kWarp) forward_rows(ForwardRows<T> rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp;
  if (n >= rows.rows) return;
  const int64_t row = n * rows.columns;
  T* cache = rows.cached_columns > 0 ? dynamic_shared<T>() + warp * rows.cached_columns : nullptr;
  const float count = static_cast<float>(rows.columns);

  float squares = first_pass<T, kWidth, kLayer>(rows, row, lane, cache);
  // Each thread reads again what it wrote itself: nothing to wait for.
  const T* x = cache != nullptr ? cache : (rows.added != nullptr ? rows.sum : rows.x) + row;
  float mean = 0;
  if constexpr (kLayer) {
    mean = squares / count;
    squares = 0;
    for (int64_t i = lane * kWidth; i < rows.columns; i += kWarp * kWidth) {
      const Floats<kWidth> value = load<kWidth>(x + i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) squares = std::fma(value.x[j] - mean, value.x[j] - mean, squares);
    }
    squares = warp_sum(squares);
  }
  const float rstd = 1.0f / std::sqrt(squares / count + rows.eps);
  if (lane == 0) {
    rows.rstd[n] = rstd;
    if constexpr (kLayer) rows.mean[n] = mean;
  }
  for (int64_t i = lane * kWidth; i < rows.columns; i += kWarp * kWidth) {
    Floats<kWidth> value = load<kWidth>(x + i);
    const Floats<kWidth> weight = load<kWidth>(rows.weight + i);
    if constexpr (kLayer) {
      const Floats<kWidth> bias = load<kWidth>(rows.bias + i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        value.x[j] = std::fma((value.x[j] - mean) * rstd, weight.x[j], bias.x[j]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) value.x[j] = value.x[j] * rstd * weight.x[j];
    }
    store<kWidth>(rows.y + row + i, value);
  }
}

template <class T, int kWidth>
void launch_forward(Stream& stream, ForwardRows<T> rows) {
  constexpr int64_t kAlign = 16 / static_cast<int64_t>(sizeof(T));
  const int64_t padded = ceil_div(rows.columns, kAlign) * kAlign;
  const int64_t row_bytes = padded * static_cast<int64_t>(sizeof(T));
  const bool cached = row_bytes <= kDefaultSharedBytes;
  rows.cached_columns = cached ? padded : 0;
  int64_t warps = kMostRowsPerBlock;
  if (cached && warps * row_bytes > kDefaultSharedBytes) warps = kDefaultSharedBytes / row_bytes;
  launch(stream, grid_size(ceil_div(rows.rows, warps)), static_cast<unsigned>(warps * kWarp),
         cached ? warps * row_bytes : 0,
         rows.bias != nullptr ? forward_rows<T, kWidth, true> : forward_rows<T, kWidth, false>, rows);
}

void forward(Stream& stream, const Tensor& x, const Tensor* added, Tensor* sum, const Tensor& weight,
             const Tensor& bias, float eps, Tensor& y, ops::NormStats& stats) {
  if (x.numel() == 0) return;
  with_float_type(x.dtype(), [&]<class T>(T) {
    const bool layer = bias.defined();
    const ForwardRows<T> rows{.x = x.data<T>(),
                              .added = added != nullptr ? added->data<T>() : nullptr,
                              .sum = sum != nullptr ? sum->data<T>() : nullptr,
                              .weight = weight.data<T>(),
                              .bias = layer ? bias.data<T>() : nullptr,
                              .y = y.data<T>(),
                              .mean = layer ? stats.mean.data<float>() : nullptr,
                              .rstd = stats.rstd.data<float>(),
                              .eps = eps,
                              .rows = x.dim(0),
                              .columns = x.dim(1),
                              .cached_columns = 0};
    constexpr int kWidth = kVector<T>;
    const bool aligned = rows.columns % kWidth == 0 && is_aligned<kWidth>(rows.x) && is_aligned<kWidth>(rows.added) &&
                         is_aligned<kWidth>(rows.sum) && is_aligned<kWidth>(rows.weight) &&
                         is_aligned<kWidth>(rows.bias) && is_aligned<kWidth>(rows.y);
    if (aligned) {
      launch_forward<T, kWidth>(stream, rows);
    } else {
      launch_forward<T, 1>(stream, rows);
    }
  });
}

}  // namespace

void norm_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, Tensor& y,
                  ops::NormStats& stats) {
  forward(stream, x, nullptr, nullptr, weight, bias, eps, y, stats);
}

void add_norm_forward(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias,
                      float eps, Tensor& sum, Tensor& y, ops::NormStats& stats) {
  forward(stream, a, &b, &sum, weight, bias, eps, y, stats);
}

}  // namespace trireme::cuda
