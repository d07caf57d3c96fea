#include "core/ops/adamw.h"

#include <cmath>

#include "core/ops/adamw_step.h"
#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

TRIREME_MULTIVERSION
void update_range(const math::AdamWStep& constants, float clip_factor, const float* grad, float* master, float* m,
                  float* v, int64_t n) {
  const math::AdamWStep step = constants;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const math::AdamWState s = math::adamw(step, grad[i] * clip_factor, {master[i], m[i], v[i]});
    master[i] = s.master;
    m[i] = s.m;
    v[i] = s.v;
  }
}

TRIREME_MULTIVERSION
void update_range_rounding(const math::AdamWStep& constants, float clip_factor, const float* grad, float* master,
                           float* m, float* v, bf16* weight, int64_t n) {
  const math::AdamWStep step = constants;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const math::AdamWState s = math::adamw(step, grad[i] * clip_factor, {master[i], m[i], v[i]});
    master[i] = s.master;
    m[i] = s.m;
    v[i] = s.v;
    math::store(weight + i, s.master);
  }
}

}  // namespace

void prepare_update(Stream&, const Tensor& sum_squares, const Tensor& loss, float max_norm, ops::UpdateScalars& out) {
  const double norm = std::sqrt(*sum_squares.data<double>());
  const float rounded = static_cast<float>(norm);
  *out.grad_norm.data<float>() = rounded;
  *out.clip_factor.data<float>() =
      max_norm == 0 ? 1.0f : static_cast<float>(std::fmin(1.0, static_cast<double>(max_norm) / (norm + 1e-6)));
  if (!std::isfinite(rounded) || !std::isfinite(*loss.data<double>())) *out.non_finite.data<int32_t>() = 1;
}

void adamw_update(Stream& stream, const ops::AdamW& options, const ops::UpdateScalars& scalars, const Tensor& grad,
                  Tensor& master, Tensor& m, Tensor& v, Tensor& weight) {
  if (*scalars.non_finite.data<int32_t>() != 0) return;
  const math::AdamWStep step = ops::adamw_step(options);
  const float clip_factor = *scalars.clip_factor.data<float>();
  const float* g = grad.data<float>();
  float* w = master.data<float>();
  float* m_data = m.data<float>();
  float* v_data = v.data<float>();
  bf16* rounded = weight.defined() ? weight.data<bf16>() : nullptr;
  stream.pool().for_ranges(grad.numel(), kGrain, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    if (rounded != nullptr) {
      update_range_rounding(step, clip_factor, g + begin, w + begin, m_data + begin, v_data + begin, rounded + begin,
                            n);
    } else {
      update_range(step, clip_factor, g + begin, w + begin, m_data + begin, v_data + begin, n);
    }
  });
}

}  // namespace trireme::cpu
