#include <cmath>

#include "core/ops/cuda/column_sum.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/cuda/vector.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// Rows of one call. `mean` is null for RMS norm. A block leaves its sums of dweight and, for layer norm, dbias in
// partial [blocks, 1 or 2, C].
template <class T>
struct BackwardRows {
  const T* dy;
  const T* x;
  const T* weight;
  const float* mean;
  const float* rstd;
  const T* residual;  // null: none; may be dx
  T* dx;
  float* partial;
  int64_t rows;
  int64_t columns;
};

// With h = (x − mean)·rstd and g = dy·weight: dx = rstd·(g − mean(g) − h·mean(g·h)), without mean(g) for RMS norm.
struct RowStats {
  float mean;
  float rstd;
  float mean_g;
  float mean_gh;
};

struct RowSums {
  float g;
  float gh;
};

template <bool kLayer>
__device__ __forceinline__ void add_to(RowSums& sums, const RowStats& row, float dy, float x, float weight) {
  const float g = dy * weight;
  if constexpr (kLayer) sums.g += g;
  sums.gh = std::fma(g, (x - row.mean) * row.rstd, sums.gh);
}

// dx of one element; adds to its column's sums.
template <bool kLayer>
__device__ __forceinline__ float gradient(const RowStats& row, float dy, float x, float weight, float& dweight,
                                          float& dbias) {
  const float h = (x - row.mean) * row.rstd;
  dweight = std::fma(dy, h, dweight);
  if constexpr (kLayer) dbias += dy;
  float out = std::fma(-h, row.mean_gh, dy * weight);
  if constexpr (kLayer) out -= row.mean_g;
  return out * row.rstd;
}

// Over the warps of one group of the block; `slots` takes turns, so that one barrier a row is enough.
template <bool kLayer>
__device__ __forceinline__ RowSums group_sums(RowSums sums, RowSums* slots, int warp, int num_warps) {
  sums.gh = warp_sum(sums.gh);
  if constexpr (kLayer) sums.g = warp_sum(sums.g);
  if (num_warps == 1) return sums;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) slots[warp] = sums;
  __syncthreads();
  const RowSums mine = lane < num_warps ? slots[lane] : RowSums{0, 0};
  return {kLayer ? warp_sum(mine.g) : 0.0f, warp_sum(mine.gh)};
}

constexpr int kMostThreads = 512;
constexpr int kMostWarps = kMostThreads / kWarp;

// Adds up what the groups of the block hold for each column and leaves it in out [C].
template <int kWidth, int kVecs>
__device__ void leave_sums(const float (&sums)[kVecs][kWidth], int64_t columns, float* out) {
  const int x = static_cast<int>(threadIdx.x);
  float* shared = dynamic_shared<float>();
#pragma unroll
  for (int k = 0; k < kVecs; ++k) {
    const int64_t column = (static_cast<int64_t>(k) * blockDim.x + x) * kWidth;
    if (column >= columns) break;
    float* to = blockDim.y == 1 ? out + column : shared + threadIdx.y * columns + column;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) to[j] = sums[k][j];
  }
  if (blockDim.y == 1) return;
  __syncthreads();
  for (int64_t column = threadIdx.y * blockDim.x + x; column < columns; column += blockDim.x * blockDim.y) {
    float sum = 0;
    for (unsigned group = 0; group < blockDim.y; ++group) sum += shared[group * columns + column];
    out[column] = sum;
  }
  __syncthreads();
}

// A block is blockDim.y groups of blockDim.x threads; a group works on one row at a time, a thread on the same
// kVecs vectors of every row, so that sums of columns stay in registers, and each number is read once.
template <class T, int kVecs, bool kLayer>
__global__ void __launch_bounds__(kMostThreads, kVecs == 1 ? 2 : 1) backward_rows(BackwardRows<T> rows) {
  constexpr int kWidth = kVector<T>;
  constexpr bool kRoomy = kVecs <= 2;       // else the weights stay in the L1 cache, and dx is read late
  __shared__ RowSums slots[2][kMostWarps];  // of each group's warps
  const int x = static_cast<int>(threadIdx.x);
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  const int group = static_cast<int>(threadIdx.y);
  const float inverse_count = 1.0f / static_cast<float>(rows.columns);
  float dweight[kVecs][kWidth] = {};
  float dbias[kLayer ? kVecs : 1][kWidth] = {};
  Raw<T, kWidth> weight[kRoomy ? kVecs : 1] = {};
#pragma unroll
  for (int k = 0; k < kVecs; ++k) {
    const int64_t column = (static_cast<int64_t>(k) * blockDim.x + x) * kWidth;
    if (kRoomy && column < rows.columns) weight[kRoomy ? k : 0] = load_raw<kWidth>(rows.weight + column);
  }
  const auto weight_of = [&](int k) {
    if constexpr (kRoomy) return widen(weight[k]);
    const int64_t column = (static_cast<int64_t>(k) * blockDim.x + x) * kWidth;
    return column < rows.columns ? load<kWidth>(rows.weight + column) : Floats<kWidth>{};
  };

  int turn = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y; first < rows.rows; first += step, turn ^= 1) {
    const int64_t n = first + group;
    const int64_t at = n * rows.columns;
    const bool active = n < rows.rows;
    RowStats row{};
    RowSums sums{};
    // Zeros, where there is no row or column, add nothing.
    Raw<T, kWidth> dy[kVecs] = {};
    Raw<T, kWidth> in[kVecs] = {};
    Raw<T, kWidth> before[kRoomy ? kVecs : 1] = {};  // of the residual
    if (active) {
      row.mean = kLayer ? rows.mean[n] : 0.0f;
      row.rstd = rows.rstd[n];
    }
#pragma unroll
    for (int k = 0; k < kVecs; ++k) {
      const int64_t column = (static_cast<int64_t>(k) * blockDim.x + x) * kWidth;
      if (!active || column >= rows.columns) continue;
      dy[k] = load_raw<kWidth>(rows.dy + at + column);
      in[k] = load_raw<kWidth>(rows.x + at + column);
      if (kRoomy && rows.residual != nullptr) before[kRoomy ? k : 0] = load_raw<kWidth>(rows.residual + at + column);
    }
#pragma unroll
    for (int k = 0; k < kVecs; ++k) {
      const Floats<kWidth> d = widen(dy[k]);
      const Floats<kWidth> value = widen(in[k]);
      const Floats<kWidth> w = weight_of(k);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) add_to<kLayer>(sums, row, d.x[j], value.x[j], w.x[j]);
    }
    sums = group_sums<kLayer>(sums, slots[turn] + group * num_warps, x / kWarp, num_warps);
    row.mean_g = sums.g * inverse_count;
    row.mean_gh = sums.gh * inverse_count;
#pragma unroll
    for (int k = 0; k < kVecs; ++k) {
      const int64_t column = (static_cast<int64_t>(k) * blockDim.x + x) * kWidth;
      const Floats<kWidth> d = widen(dy[k]);
      const Floats<kWidth> value = widen(in[k]);
      const Floats<kWidth> w = weight_of(k);
      Floats<kWidth> out;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        out.x[j] = gradient<kLayer>(row, d.x[j], value.x[j], w.x[j], dweight[k][j], dbias[kLayer ? k : 0][j]);
      }
      if (rows.residual != nullptr) {
        Floats<kWidth> old{};
        if constexpr (kRoomy) {
          old = widen(before[k]);
        } else if (active && column < rows.columns) {
          old = load<kWidth>(rows.residual + at + column);
        }
#pragma unroll
        for (int j = 0; j < kWidth; ++j) out.x[j] += old.x[j];
      }
      if (active && column < rows.columns) store<kWidth>(rows.dx + at + column, out);
    }
  }
  float* partial = rows.partial + blockIdx.x * (kLayer ? 2 : 1) * rows.columns;
  leave_sums<kWidth, kVecs>(dweight, rows.columns, partial);
  if constexpr (kLayer) leave_sums<kWidth, kVecs>(dbias, rows.columns, partial + rows.columns);
}

// For rows of any length at any address: sums of columns lie in `partial`, each with the thread that owns the column.
constexpr int kAnyThreads = 256;

template <class T, bool kLayer>
__global__ void __launch_bounds__(kAnyThreads) backward_any(BackwardRows<T> rows) {
  __shared__ RowSums slots[2][kAnyThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  float* dweight = rows.partial + blockIdx.x * (kLayer ? 2 : 1) * rows.columns;
  float* dbias = dweight + (kLayer ? rows.columns : 0);
  for (int64_t i = thread; i < rows.columns; i += kAnyThreads) dweight[i] = dbias[i] = 0;
  int turn = 0;
  for (int64_t n = blockIdx.x; n < rows.rows; n += gridDim.x, turn ^= 1) {
    const T* dy = rows.dy + n * rows.columns;
    const T* x = rows.x + n * rows.columns;
    T* dx = rows.dx + n * rows.columns;
    RowStats row{kLayer ? rows.mean[n] : 0.0f, rows.rstd[n], 0, 0};
    RowSums sums{};
    for (int64_t i = thread; i < rows.columns; i += kAnyThreads) {
      add_to<kLayer>(sums, row, math::load(dy + i), math::load(x + i), math::load(rows.weight + i));
    }
    sums = group_sums<kLayer>(sums, slots[turn], thread / kWarp, kAnyThreads / kWarp);
    row.mean_g = sums.g / static_cast<float>(rows.columns);
    row.mean_gh = sums.gh / static_cast<float>(rows.columns);
    for (int64_t i = thread; i < rows.columns; i += kAnyThreads) {
      float dweight_i = dweight[i];
      float dbias_i = dbias[i];
      float out =
          gradient<kLayer>(row, math::load(dy + i), math::load(x + i), math::load(rows.weight + i), dweight_i, dbias_i);
      if (rows.residual != nullptr) out += math::load(rows.residual + n * rows.columns + i);
      dweight[i] = dweight_i;
      if constexpr (kLayer) dbias[i] = dbias_i;
      math::store(dx + i, out);
    }
  }
}

template <class T, bool kLayer>
struct Plan {
  void (*kernel)(BackwardRows<T>);
  unsigned threads;  // of a group
  unsigned groups;
  int64_t shared_bytes = 0;
};

template <class T, bool kLayer>
Plan<T, kLayer> plan_backward(const BackwardRows<T>& rows) {
  constexpr int kWidth = kVector<T>;
  const int64_t vectors = rows.columns / kWidth;
  const bool aligned = rows.columns % kWidth == 0 && is_aligned<kWidth>(rows.dy) && is_aligned<kWidth>(rows.x) &&
                       is_aligned<kWidth>(rows.weight) && is_aligned<kWidth>(rows.residual) &&
                       is_aligned<kWidth>(rows.dx);
  const int64_t per_thread = vectors <= kMostThreads ? 1 : vectors <= 2 * kMostThreads ? 2 : 4;
  if (!aligned || vectors > (kLayer ? 2 : 4) * kMostThreads) return {backward_any<T, kLayer>, kAnyThreads, 1};
  Plan<T, kLayer> plan{backward_rows<T, 1, kLayer>, 0, 0};
  if (per_thread == 2) plan.kernel = backward_rows<T, 2, kLayer>;
  if constexpr (!kLayer) {
    if (per_thread == 4) plan.kernel = backward_rows<T, 4, kLayer>;
  }
  plan.threads = static_cast<unsigned>(ceil_div(ceil_div(vectors, per_thread), kWarp) * kWarp);
  plan.groups = kMostThreads / plan.threads;
  if (plan.groups > 1) plan.shared_bytes = plan.groups * rows.columns * static_cast<int64_t>(sizeof(float));
  return plan;
}

template <class T, bool kLayer>
void launch_backward(Stream& stream, BackwardRows<T> rows, Tensor& dweight, Tensor& dbias) {
  const Plan<T, kLayer> plan = plan_backward<T, kLayer>(rows);
  const int64_t blocks = std::min(ceil_div(rows.rows, plan.groups), kMostParts);
  const Tensor partial =
      Tensor::empty(stream, {blocks, kLayer ? 2 : 1, rows.columns}, DType::f32, MemoryTag::workspace);
  rows.partial = partial.data<float>();
  launch(stream, grid_size(blocks), dim3(plan.threads, plan.groups), plan.shared_bytes, plan.kernel, rows);
  add_partial_sums(stream, partial, dweight, dbias);
}

}  // namespace

void norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const ops::NormStats& stats,
                   const Tensor& residual, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    const bool layer = stats.mean.defined();
    const BackwardRows<T> rows{.dy = dy.data<T>(),
                               .x = x.data<T>(),
                               .weight = weight.data<T>(),
                               .mean = layer ? stats.mean.data<float>() : nullptr,
                               .rstd = stats.rstd.data<float>(),
                               .residual = residual.defined() ? residual.data<T>() : nullptr,
                               .dx = dx.data<T>(),
                               .partial = nullptr,
                               .rows = x.dim(0),
                               .columns = x.dim(1)};
    if (layer) {
      launch_backward<T, true>(stream, rows, dweight, dbias);
    } else {
      launch_backward<T, false>(stream, rows, dweight, dbias);
    }
  });
}

}  // namespace trireme::cuda
