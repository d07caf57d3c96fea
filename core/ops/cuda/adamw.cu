#include "core/ops/adamw.h"

#include <cmath>

#include "core/ops/adamw_step.h"
#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

template <class T>
__device__ bool is_finite(T x) {
  return x - x == T{0};  // a NaN for what is infinite or a NaN
}

__global__ void prepare(const double* sum_squares, const double* loss, double max_norm, float* clip_factor,
                        float* grad_norm, int32_t* non_finite) {
  const double norm = std::sqrt(*sum_squares);
  const float rounded = static_cast<float>(norm);
  *grad_norm = rounded;
  *clip_factor = max_norm == 0 ? 1.0f : static_cast<float>(std::fmin(1.0, max_norm / (norm + 1e-6)));
  if (!is_finite(rounded) || !is_finite(*loss)) *non_finite = 1;
}

// TWeight is what `weight` holds beside the fp32 master; void where there is none.
template <class TGrad, class TMoment, class TWeight>
struct Update {
  math::AdamWStep step;
  const float* clip_factor;
  const int32_t* non_finite;
  const TGrad* grad;
  float* master;
  TMoment* m;
  TMoment* v;
  TWeight* weight;

  template <int kN>
  __device__ void run(int64_t i) const {
    if (*non_finite != 0) return;
    const float clip = *clip_factor;
    const Floats<kN> g = load<kN>(grad + i);
    Floats<kN> w = load<kN>(master + i);
    Floats<kN> m_new = load<kN>(m + i);
    Floats<kN> v_new = load<kN>(v + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const math::AdamWState s = math::adamw(step, g.x[j] * clip, {w.x[j], m_new.x[j], v_new.x[j]});
      w.x[j] = s.master;
      m_new.x[j] = s.m;
      v_new.x[j] = s.v;
    }
    store<kN>(master + i, w);
    store<kN>(m + i, m_new);
    store<kN>(v + i, v_new);
    if constexpr (!std::is_void_v<TWeight>) store<kN>(weight + i, w);
  }
};

// 16 bytes of the widest type at a time.
constexpr int kWidth = kVector<float>;

}  // namespace

void prepare_update(Stream& stream, const Tensor& sum_squares, const Tensor& loss, float max_norm,
                    ops::UpdateScalars& out) {
  launch(stream, 1, 1, 0, prepare, sum_squares.data<double>(), loss.data<double>(), static_cast<double>(max_norm),
         out.clip_factor.data<float>(), out.grad_norm.data<float>(), out.non_finite.data<int32_t>());
}

void adamw_update(Stream& stream, const ops::AdamW& options, const ops::UpdateScalars& scalars, const Tensor& grad,
                  Tensor& master, Tensor& m, Tensor& v, Tensor& weight) {
  const auto update = [&]<class TWeight>(TWeight* rounded, bool weight_aligned) {
    const Update<float, float, TWeight> op{ops::adamw_step(options),
                                           scalars.clip_factor.data<float>(),
                                           scalars.non_finite.data<int32_t>(),
                                           grad.data<float>(),
                                           master.data<float>(),
                                           m.data<float>(),
                                           v.data<float>(),
                                           rounded};
    const bool aligned = weight_aligned && is_aligned<kWidth>(op.grad) && is_aligned<kWidth>(op.master) &&
                         is_aligned<kWidth>(op.m) && is_aligned<kWidth>(op.v);
    for_elements<kWidth>(stream, grad.numel(), aligned, op);
  };
  if (weight.defined()) {
    update(weight.data<bf16>(), is_aligned<kWidth>(weight.data<bf16>()));
  } else {
    update(static_cast<void*>(nullptr), true);
  }
}

}  // namespace trireme::cuda
