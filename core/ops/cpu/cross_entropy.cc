#include "core/ops/cross_entropy.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"
#include "core/ops/part_stats.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kSoftmaxBlock = 2048;  // columns read once from memory, then twice from the L1 cache

TRIREME_MULTIVERSION
ops::SoftmaxTotal log_sum_exp(const float* row, int64_t columns) {
  ops::SoftmaxTotal total;
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

// `label` is −1 where it is another part's.
template <class T>
void gradient_row(const float* x, int64_t columns, int64_t label, const ops::SoftmaxTotal& total, float grad_scale,
                  T* d) {
  softmax_grad_row(x, total.max, static_cast<float>(static_cast<double>(grad_scale) / total.sum), d, columns);
  if (label < 0) return;
  // p − 1 is formed in fp64, where p near 1 keeps digits.
  const double p = std::exp(total.label_logit - total.log_sum());
  math::store(d + label, static_cast<float>((p - 1.0) * static_cast<double>(grad_scale)));
}

// The first `columns` of a row of logits, as they lie or widened into `room`.
const float* read_row(const Tensor& logits, int64_t n, int64_t columns, std::vector<float>& room) {
  const int64_t at = n * logits.dim(1);
  if (logits.dtype() == DType::f32) return logits.data<float>() + at;
  room.resize(static_cast<size_t>(columns));
  widen_row(logits.data<bf16>() + at, room.data(), columns);
  return room.data();
}

}  // namespace

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const ops::VocabularyPart& part,
                   const Tensor& stats_of_all, const Tensor& grad_scale, Tensor& losses, Tensor& dlogits) {
  const int64_t rows = logits.dim(0);
  const int64_t width = logits.dim(1);
  const bool whole = !stats_of_all.defined();
  const auto* stats = whole ? nullptr : reinterpret_cast<const ops::PartStats*>(stats_of_all.data<float>());
  const int32_t* label = labels.data<int32_t>();
  float* loss = losses.data<float>();
  const float factor = dlogits.defined() ? *grad_scale.data<float>() : 0.0f;
  with_float_type(dlogits.defined() ? dlogits.dtype() : DType::f32, [&]<class T>(T) {
    T* d = dlogits.defined() ? dlogits.data<T>() : nullptr;
    stream.pool().for_ranges(rows, rows_per_piece(width), [&](int64_t begin, int64_t end) {
      std::vector<float> room;
      for (int64_t n = begin; n < end; ++n) {
        if (label[n] == ops::kIgnoredLabel) {
          loss[n] = 0;
          if (d != nullptr) zero_row(d + n * width, width);
          continue;
        }
        TRIREME_CHECK(label[n] >= 0 && (!whole || label[n] < part.size), "a label lies outside the vocabulary");
        const float* row = read_row(logits, n, part.size, room);
        ops::SoftmaxTotal total;
        if (whole) {
          total = log_sum_exp(row, part.size);
          total.label_logit = static_cast<double>(row[label[n]]);
        } else {
          total = ops::combine_parts(stats + n, stats_of_all.dim(0), rows);
        }
        loss[n] = static_cast<float>(total.log_sum() - total.label_logit);
        if (d == nullptr) continue;
        gradient_row(row, part.size, part.index_of(label[n]), total, factor, d + n * width);
        zero_row(d + n * width + part.size, width - part.size);
      }
    });
  });
}

void cross_entropy_stats(Stream& stream, const Tensor& logits, const Tensor& labels, const ops::VocabularyPart& part,
                         Tensor& stats) {
  const int32_t* label = labels.data<int32_t>();
  auto* out = reinterpret_cast<ops::PartStats*>(stats.data<float>());
  stream.pool().for_ranges(logits.dim(0), rows_per_piece(logits.dim(1)), [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t n = begin; n < end; ++n) {
      out[n] = ops::kNoStats;
      if (label[n] == ops::kIgnoredLabel) continue;
      TRIREME_CHECK(label[n] >= 0, "a label lies outside the vocabulary");
      const float* row = read_row(logits, n, part.size, room);
      const ops::SoftmaxTotal total = log_sum_exp(row, part.size);
      const int64_t index = part.index_of(label[n]);
      out[n].max = total.max;
      out[n].sum = static_cast<float>(total.sum);
      if (index >= 0) out[n].label_logit = row[index];
    }
  });
}

void inverse_count(Stream&, const Tensor& count, Tensor& scale) {
  const int64_t n = *count.data<int64_t>();
  *scale.data<float>() = n > 0 ? static_cast<float>(1.0 / static_cast<double>(n)) : 0.0f;
}

}  // namespace trireme::cpu
