#include "core/ops/light_experts.h"

#include <algorithm>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/cpu/row_sums.h"
#include "core/ops/light_rows.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

template <class T>
TRIREME_MULTIVERSION void add_times(const T* x, float factor, float* sum, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] = std::fma(factor, math::load(x + i), sum[i]);
}

// One row: y += x_factor·x + Σ_m factors[m]·table[m].
template <class T>
void add_row(const T* x, float x_factor, const float* factors, const float* table, int64_t num, T* y, int64_t columns) {
  const auto is_zero = [](float f) { return f == 0; };
  if (is_zero(x_factor) && std::all_of(factors, factors + num, is_zero)) return;
  float sum[kSumColumns];
  for (int64_t begin = 0; begin < columns; begin += kSumColumns) {
    const int64_t n = std::min(kSumColumns, columns - begin);
    widen_row(y + begin, sum, n);
    if (!is_zero(x_factor)) add_times(x + begin, x_factor, sum, n);
    for (int64_t m = 0; m < num; ++m) {
      if (!is_zero(factors[m])) add_times(table + m * columns + begin, factors[m], sum, n);
    }
    narrow_row(sum, y + begin, n);
  }
}

}  // namespace

void light_factors(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                   const ops::LightChoices& choices, Tensor& x_factor, Tensor& vector_factors) {
  const LightRows rows(experts, weights, mixes, choices);
  float* by_x = x_factor.data<float>();
  float* by_vector = choices.num_constant > 0 ? vector_factors.data<float>() : nullptr;
  stream.pool().for_ranges(experts.dim(0), rows_per_piece(rows.slots), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) rows.factors(r, by_x, by_vector);
  });
}

void light_gradients(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                     const Tensor& x_dots, const Tensor& vector_dots, const ops::LightChoices& choices,
                     Tensor& dweights, Tensor& dlogits) {
  const LightRows rows(experts, weights, mixes, choices);
  const bool constants = choices.num_constant > 0;
  const float* of_vectors = constants ? vector_dots.data<float>() : nullptr;
  float* by_logits = constants ? dlogits.data<float>() : nullptr;
  const float* of_x = x_dots.data<float>();
  float* by_weights = dweights.data<float>();
  stream.pool().for_ranges(experts.dim(0), rows_per_piece(rows.slots), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) rows.gradients(r, of_x, of_vectors, by_weights, by_logits);
  });
}

void add_light_rows(Stream& stream, const Tensor& x, const Tensor& x_factor, const Tensor& factors, const Tensor& table,
                    Tensor& y) {
  const int64_t columns = x.dim(1);
  const int64_t num = factors.defined() ? factors.dim(1) : 0;
  const float* by_x = x_factor.data<float>();
  const float* f = num > 0 ? factors.data<float>() : nullptr;
  const float* vectors = num > 0 ? table.data<float>() : nullptr;
  with_float_type(x.dtype(), [&]<class T>(T) {
    const T* in = x.data<T>();
    T* out = y.data<T>();
    stream.pool().for_ranges(x.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        add_row(in + r * columns, by_x[r], f + r * num, vectors, num, out + r * columns, columns);
      }
    });
  });
}

}  // namespace trireme::cpu
