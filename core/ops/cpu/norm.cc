#include "core/ops/norm.h"

#include <cmath>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/lanes.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

// Rows of one call. `bias` and `mean` are null for RMS norm; `added` is null unless a residual is added first.
template <class T>
struct ForwardRows {
  const T* x;
  const T* added;
  T* sum;  // x + added
  const T* weight;
  const T* bias;
  T* y;
  float* mean;
  float* rstd;
  float eps;
  int64_t columns;
};

template <class T>
TRIREME_HOST_DEVICE float row_mean(const T* x, int64_t columns) {
  const float sum = sum_of(
      columns, [&](auto load) __attribute__((always_inline)) { return load(x); });
  return sum / static_cast<float>(columns);
}

// 1/√(mean((x − mean)²) + eps).
template <class T>
TRIREME_HOST_DEVICE float row_rstd(const T* x, float mean, float eps, int64_t columns) {
  const float squares = sum_of(
      columns, [&](auto load) __attribute__((always_inline)) {
        const auto d = load(x) - mean;
        return d * d;
      });
  return 1.0f / std::sqrt(squares / static_cast<float>(columns) + eps);
}

template <class T>
TRIREME_MULTIVERSION void forward_rows(const ForwardRows<T>& rows, int64_t begin, int64_t end) {
  const int64_t columns = rows.columns;
  const T* weight = rows.weight;
  const T* bias = rows.bias;
  for (int64_t n = begin; n < end; ++n) {
    const T* x = rows.x + n * columns;
    if (rows.added != nullptr) {
      const T* b = rows.added + n * columns;
      T* sum = rows.sum + n * columns;
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) math::store(sum + i, math::load(x + i) + math::load(b + i));
      x = sum;
    }
    T* y = rows.y + n * columns;
    const float mean = rows.mean != nullptr ? row_mean(x, columns) : 0.0f;
    const float rstd = row_rstd(x, mean, rows.eps, columns);
    rows.rstd[n] = rstd;
    if (rows.mean != nullptr) {
      rows.mean[n] = mean;
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) {
        math::store(y + i, std::fma((math::load(x + i) - mean) * rstd, math::load(weight + i), math::load(bias + i)));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) math::store(y + i, math::load(x + i) * rstd * math::load(weight + i));
    }
  }
}

void forward(Stream& stream, const Tensor& x, const Tensor* added, Tensor* sum, const Tensor& weight,
             const Tensor& bias, float eps, Tensor& y, ops::NormStats& stats) {
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
                              .columns = x.dim(1)};
    stream.pool().for_ranges(x.dim(0), rows_per_piece(x.dim(1)),
                             [&](int64_t begin, int64_t end) { forward_rows(rows, begin, end); });
  });
}

template <class T>
struct BackwardRows {
  const T* dy;
  const T* x;
  const T* weight;
  const float* mean;
  const float* rstd;
  const T* residual;  // null: none
  T* dx;
  int64_t columns;
};

// With h = (x − mean)·rstd and g = dy·weight: dx = rstd·(g − mean(g) − h·mean(g·h)), without mean(g) for RMS norm.
// Adds Σ dy·h to dweight and, for layer norm, Σ dy to dbias.
template <class T, bool kLayer, bool kResidual>
TRIREME_HOST_DEVICE void backward_row(const BackwardRows<T>& rows, int64_t n, float* dweight, float* dbias) {
  const int64_t columns = rows.columns;
  const T* dy = rows.dy + n * columns;
  const T* x = rows.x + n * columns;
  const T* weight = rows.weight;
  const T* residual = kResidual ? rows.residual + n * columns : nullptr;
  T* dx = rows.dx + n * columns;
  const float mean = kLayer ? rows.mean[n] : 0.0f;
  const float rstd = rows.rstd[n];
  const auto g_at = [&](auto load) __attribute__((always_inline)) { return load(dy) * load(weight); };
  const auto gh_at = [&](auto load) __attribute__((always_inline)) { return g_at(load) * ((load(x) - mean) * rstd); };
  TwoSums sums{};
  if constexpr (kLayer) {
    sums = sums_of(columns, g_at, gh_at);
  } else {
    sums.second = sum_of(columns, gh_at);
  }
  const float mean_g = sums.first / static_cast<float>(columns);
  const float mean_gh = sums.second / static_cast<float>(columns);
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    const float d = math::load(dy + i);
    const float h = (math::load(x + i) - mean) * rstd;
    float out = std::fma(-h, mean_gh, d * math::load(weight + i));
    if constexpr (kLayer) out -= mean_g;
    out = kResidual ? std::fma(out, rstd, math::load(residual + i)) : out * rstd;
    math::store(dx + i, out);
    dweight[i] = std::fma(d, h, dweight[i]);
    if constexpr (kLayer) dbias[i] += d;
  }
}

template <class T, bool kLayer>
TRIREME_MULTIVERSION void backward_block(const BackwardRows<T>& rows, int64_t begin, int64_t end, float* dweight,
                                         float* dbias) {
  for (int64_t i = 0; i < rows.columns; ++i) dweight[i] = 0;
  if constexpr (kLayer) {
    for (int64_t i = 0; i < rows.columns; ++i) dbias[i] = 0;
  }
  for (int64_t n = begin; n < end; ++n) {
    if (rows.residual != nullptr) {
      backward_row<T, kLayer, true>(rows, n, dweight, dbias);
    } else {
      backward_row<T, kLayer, false>(rows, n, dweight, dbias);
    }
  }
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

void norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const ops::NormStats& stats,
                   const Tensor& residual, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  const int64_t num_rows = x.dim(0);
  const int64_t columns = x.dim(1);
  const bool layer = stats.mean.defined();
  const int64_t block = rows_per_block(num_rows);
  const int64_t num_blocks = num_row_blocks(num_rows);
  // Of each block: [dweight, dbias].
  const Tensor partial = Tensor::empty(stream, {num_blocks, 2, columns}, DType::f32, MemoryTag::workspace);
  float* sums = partial.data<float>();
  with_float_type(x.dtype(), [&]<class T>(T) {
    const BackwardRows<T> rows{.dy = dy.data<T>(),
                               .x = x.data<T>(),
                               .weight = weight.data<T>(),
                               .mean = layer ? stats.mean.data<float>() : nullptr,
                               .rstd = stats.rstd.data<float>(),
                               .residual = residual.defined() ? residual.data<T>() : nullptr,
                               .dx = dx.data<T>(),
                               .columns = columns};
    stream.pool().for_ranges(num_rows, block, [&](int64_t begin, int64_t end) {
      float* block_dweight = sums + begin / block * 2 * columns;
      float* block_dbias = block_dweight + columns;
      if (layer) {
        backward_block<T, true>(rows, begin, end, block_dweight, block_dbias);
      } else {
        backward_block<T, false>(rows, begin, end, block_dweight, block_dbias);
      }
    });
  });
  ThreadPool& pool = stream.pool();
  add_partial_sums(pool, sums, num_blocks, 2 * columns, columns, /*accumulate=*/false, dweight.data<float>());
  if (layer) {
    add_partial_sums(pool, sums + columns, num_blocks, 2 * columns, columns, /*accumulate=*/false, dbias.data<float>());
  }
}

}  // namespace trireme::cpu
