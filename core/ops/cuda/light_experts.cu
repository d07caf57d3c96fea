#include "core/ops/light_experts.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/float_type.h"
#include "core/ops/light_rows.h"

namespace trireme::cuda {

namespace {

struct Factors {
  LightRows rows;
  float* x_factor;
  float* vector_factors;

  template <int kN>
  __device__ void run(int64_t row) const {
    rows.factors(row, x_factor, vector_factors);
  }
};

struct Gradients {
  LightRows rows;
  const float* x_dots;
  const float* vector_dots;
  float* dweights;
  float* dlogits;

  template <int kN>
  __device__ void run(int64_t row) const {
    rows.gradients(row, x_dots, vector_dots, dweights, dlogits);
  }
};

template <class T>
struct AddRows {
  const T* x;
  const float* x_factor;
  const float* factors;
  const float* table;
  T* y;
  int64_t num;
  int64_t columns;

  template <int kN, class U>
  __device__ static void add(Floats<kN>& sum, float factor, const U* from) {
    const Floats<kN> in = load<kN>(from);
#pragma unroll
    for (int j = 0; j < kN; ++j) sum.x[j] = std::fma(factor, in.x[j], sum.x[j]);
  }

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    Floats<kN> sum = load<kN>(y + row * columns + column);
    if (x_factor[row] != 0) add<kN>(sum, x_factor[row], x + row * columns + column);
    for (int64_t m = 0; m < num; ++m) {
      const float f = factors[row * num + m];
      if (f != 0) add<kN>(sum, f, table + m * columns + column);
    }
    store<kN>(y + row * columns + column, sum);
  }
};

}  // namespace

void light_factors(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                   const ops::LightChoices& choices, Tensor& x_factor, Tensor& vector_factors) {
  if (experts.dim(0) == 0) return;
  const Factors op{LightRows(experts, weights, mixes, choices), x_factor.data<float>(),
                   choices.num_constant > 0 ? vector_factors.data<float>() : nullptr};
  for_elements<1>(stream, experts.dim(0), /*aligned=*/false, op);
}

void light_gradients(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                     const Tensor& x_dots, const Tensor& vector_dots, const ops::LightChoices& choices,
                     Tensor& dweights, Tensor& dlogits) {
  if (experts.dim(0) == 0) return;
  const bool constants = choices.num_constant > 0;
  const Gradients op{LightRows(experts, weights, mixes, choices), x_dots.data<float>(),
                     constants ? vector_dots.data<float>() : nullptr, dweights.data<float>(),
                     constants ? dlogits.data<float>() : nullptr};
  for_elements<1>(stream, experts.dim(0), /*aligned=*/false, op);
}

void add_light_rows(Stream& stream, const Tensor& x, const Tensor& x_factor, const Tensor& factors, const Tensor& table,
                    Tensor& y) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const int64_t num = factors.defined() ? factors.dim(1) : 0;
    const AddRows<T> op{x.data<T>(),
                        x_factor.data<float>(),
                        num > 0 ? factors.data<float>() : nullptr,
                        num > 0 ? table.data<float>() : nullptr,
                        y.data<T>(),
                        num,
                        x.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.x) && is_aligned<kWidth>(op.y) &&
                         is_aligned<kWidth>(op.table);
    for_rows<kWidth>(stream, x.dim(0), op.columns, aligned, op);
  });
}

}  // namespace trireme::cuda
