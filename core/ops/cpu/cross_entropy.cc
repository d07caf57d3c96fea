#include "core/ops/cross_entropy.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kSoftmaxBlock = 2048;  // columns read once from memory, then twice from the L1 cache

// Of a row so far: its maximum and Σ e^(x − maximum).
struct LogSumExp {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;

  double value() const { return static_cast<double>(max) + std::log(sum); }
};

TRIREME_MULTIVERSION
LogSumExp log_sum_exp(const float* row, int64_t columns) {
  LogSumExp total;
  for (int64_t begin = 0; begin < columns; begin += kSoftmaxBlock) {
    const float* x = row + begin;
    const int64_t n = std::min(kSoftmaxBlock, columns - begin);
    float block_max = total.max;
#pragma omp simd reduction(max : block_max)
    for (int64_t i = 0; i < n; ++i) block_max = block_max < x[i] ? x[i] : block_max;
    if (block_max > total.max) {
      total.sum *= std::exp(static_cast<double>(total.max) - static_cast<double>(block_max));
      total.max = block_max;
    }
    const float shift = block_max > -std::numeric_limits<float>::infinity() ? block_max : 0.0f;  // all masked so far
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += math::exp_of_nonpositive(x[i] - shift);
    total.sum += static_cast<double>(sum);
  }
  return total;
}

// d[i] = e^(x[i] − shift) · factor.
template <class T>
TRIREME_MULTIVERSION void softmax_grad_row(const float* x, float shift, float factor, T* d, int64_t columns) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) math::store(d + i, math::exp_of_nonpositive(x[i] - shift) * factor);
}

TRIREME_MULTIVERSION
void widen_row(const bf16* x, float* y, int64_t columns) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) y[i] = math::load(x + i);
}

template <class T>
void zero_row(T* d, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) math::store(d + i, 0.0f);
}

template <class T>
void gradient_row(const float* x, int64_t columns, int32_t label, const LogSumExp& total, float grad_scale, T* d) {
  // The label's own element first: in place, the row is about to go. p − 1 is formed in fp64, where p near 1 keeps
  // digits.
  const double p = std::exp(static_cast<double>(x[label]) - total.value());
  softmax_grad_row(x, total.max, static_cast<float>(static_cast<double>(grad_scale) / total.sum), d, columns);
  math::store(d + label, static_cast<float>((p - 1.0) * static_cast<double>(grad_scale)));
}

}  // namespace

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const Tensor& grad_scale, Tensor& losses,
                   Tensor& dlogits) {
  const int64_t columns = logits.dim(1);
  const bool narrow = logits.dtype() == DType::bf16;
  const int32_t* label = labels.data<int32_t>();
  float* loss = losses.data<float>();
  const float factor = dlogits.defined() ? *grad_scale.data<float>() : 0.0f;
  with_float_type(dlogits.defined() ? dlogits.dtype() : DType::f32, [&]<class T>(T) {
    T* d = dlogits.defined() ? dlogits.data<T>() : nullptr;
    stream.pool().for_ranges(logits.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      std::vector<float> widened(narrow ? static_cast<size_t>(columns) : 0);
      for (int64_t n = begin; n < end; ++n) {
        const float* row = widened.data();
        if (narrow) {
          widen_row(logits.data<bf16>() + n * columns, widened.data(), columns);
        } else {
          row = logits.data<float>() + n * columns;
        }
        if (label[n] == ops::kIgnoredLabel) {
          loss[n] = 0;
          if (d != nullptr) zero_row(d + n * columns, columns);
          continue;
        }
        TRIREME_CHECK(label[n] >= 0 && label[n] < columns, "a label lies outside the vocabulary");
        const LogSumExp total = log_sum_exp(row, columns);
        loss[n] = static_cast<float>(total.value() - static_cast<double>(row[label[n]]));
        if (d != nullptr) gradient_row(row, columns, label[n], total, factor, d + n * columns);
      }
    });
  });
}

void inverse_count(Stream&, const Tensor& count, Tensor& scale) {
  const int64_t n = *count.data<int64_t>();
  *scale.data<float>() = n > 0 ? static_cast<float>(1.0 / static_cast<double>(n)) : 0.0f;
}

}  // namespace trireme::cpu
