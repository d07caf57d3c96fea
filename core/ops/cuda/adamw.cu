#include "core/ops/adamw.h"

#include <cmath>

#include "core/ops/adamw_step.h"
#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/float_type.h"
#include "core/ops/update_range.h"

namespace trireme::cuda {

namespace {

using ops::Stored;
using ops::UpdateRange;

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

// A thread moves kWidth neighbours: eight where they share random bits, else 16 bytes of fp32. It looks up the range that
// they lie in; where they lie in none or in several, or share no block of random bits, it takes them one by one.
template <Stored kStored, class Grad, class Moment>
struct Update {
  static constexpr bool kRoundsWeight = kStored == Stored::weight;
  static constexpr bool kRoundsMoments = std::is_same_v<Moment, bf16>;
  static constexpr bool kDraws = kRoundsWeight || kRoundsMoments;
  static constexpr int kWidth = kDraws ? 8 : kVector<float>;

  math::AdamWStep constants;
  int64_t step;
  const float* clip_factor;
  const int32_t* non_finite;
  const UpdateRange* ranges;
  int64_t num_ranges;
  const Grad* grad;
  float* master;
  bf16* weight;
  Moment* m;
  Moment* v;

  template <int kN>
  __device__ void run(int64_t i) const {
    const Old<kN> old = load_old<kN>(i);  // under way while the range is looked up
    if (*non_finite != 0) return;
    const int64_t found = ops::find_range(ranges, num_ranges, i);
    if (found == num_ranges) return;
    const UpdateRange range = ranges[found];
    if (range.begin >= i + kN) return;
    if constexpr (kN > 1) {
      const bool together = kDraws ? ops::is_whole_group(range, i) : ops::is_one_piece(range, i, kN);
      if (!together) {
        for (int j = 0; j < kN; ++j) run<1>(i + j);
        return;
      }
    }
    const int64_t element = ops::piece_at(range, i).element;
    if (element >= 0) move<kN>(i, element, range, old);
  }

 private:
  using Weight = std::conditional_t<kRoundsWeight, bf16, float>;  // the one that is read

  template <int kN>
  struct Old {
    Raw<Grad, kN> grad;
    Raw<Weight, kN> weight;
    Raw<Moment, kN> m, v;
  };

  template <int kN>
  __device__ __forceinline__ Old<kN> load_old(int64_t i) const {
    if constexpr (kRoundsWeight) {
      return {load_raw<kN>(grad + i), load_raw<kN>(weight + i), load_raw<kN>(m + i), load_raw<kN>(v + i)};
    } else {
      return {load_raw<kN>(grad + i), load_raw<kN>(master + i), load_raw<kN>(m + i), load_raw<kN>(v + i)};
    }
  }

  template <int kN>
  __device__ __forceinline__ void move(int64_t i, int64_t element, const UpdateRange& range, const Old<kN>& old) const {
    math::AdamWStep now = constants;
    if (range.decays == 0) now.decay = 0;
    const float clip = *clip_factor;
    const Floats<kN> g = widen(old.grad);
    Floats<kN> w = widen(old.weight);
    Floats<kN> m_new = widen(old.m);
    Floats<kN> v_new = widen(old.v);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const math::AdamWState s = math::adamw(now, g.x[j] * clip, {w.x[j], m_new.x[j], v_new.x[j]});
      w.x[j] = s.master;
      m_new.x[j] = s.m;
      v_new.x[j] = s.v;
    }
    if constexpr (kRoundsWeight) {
      store_rounded(weight + i, w, range.key, math::Rounded::weight, element);
    } else {
      store<kN>(master + i, w);
      if constexpr (kStored == Stored::master_and_weight) store<kN>(weight + i, w);
    }
    if constexpr (kRoundsMoments) {
      store_rounded(m + i, m_new, range.key, math::Rounded::first_moment, element);
      store_rounded(v + i, v_new, range.key, math::Rounded::second_moment, element);
    } else {
      store<kN>(m + i, m_new);
      store<kN>(v + i, v_new);
    }
  }

  // Stochastically; `element` is that of the parameter.
  __device__ __forceinline__ void store_rounded(bf16* p, const Floats<1>& x, int64_t key, math::Rounded what,
                                                int64_t element) const {
    math::store_stochastic(p, x.x[0], math::rounding_draw(static_cast<uint64_t>(key), step, what, element));
  }
  __device__ __forceinline__ void store_rounded(bf16* p, const Floats<8>& x, int64_t key, math::Rounded what,
                                                int64_t element) const {
    const PhiloxBlock bits = math::rounding_block(static_cast<uint64_t>(key), step, what, element >> 3);
    Raw<bf16, 8> raw;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t low = math::round_stochastic(x.x[2 * j], bits.x[j]);
      const uint32_t high = math::round_stochastic(x.x[2 * j + 1], bits.x[j] >> 16);
      raw.word[j] = low | high << 16;
    }
    store_raw(p, raw);
  }
};

}  // namespace

void prepare_update(Stream& stream, const Tensor& sum_squares, const Tensor& loss, float max_norm,
                    ops::UpdateScalars& out) {
  launch(stream, 1, 1, 0, prepare, sum_squares.data<double>(), loss.data<double>(), static_cast<double>(max_norm),
         out.clip_factor.data<float>(), out.grad_norm.data<float>(), out.non_finite.data<int32_t>());
}

void adamw_update(Stream& stream, const ops::AdamW& options, const ops::UpdateScalars& scalars, const Tensor& ranges,
                  const Tensor& grad, ops::AdamWTensors& state) {
  with_float_type(grad.dtype(), [&]<class Grad>(Grad) {
    with_float_type(state.m.dtype(), [&]<class Moment>(Moment) {
      ops::with_stored(state, [&]<Stored kStored>() {
        using Op = Update<kStored, Grad, Moment>;
        const Op op{.constants = ops::adamw_step(options),
                    .step = options.step,
                    .clip_factor = scalars.clip_factor.data<float>(),
                    .non_finite = scalars.non_finite.data<int32_t>(),
                    .ranges = reinterpret_cast<const UpdateRange*>(ranges.data<int64_t>()),
                    .num_ranges = ranges.dim(0),
                    .grad = grad.data<Grad>(),
                    .master = kStored == Stored::weight ? nullptr : state.master.data<float>(),
                    .weight = kStored == Stored::master ? nullptr : state.weight.data<bf16>(),
                    .m = state.m.data<Moment>(),
                    .v = state.v.data<Moment>()};
        for_elements<Op::kWidth>(stream, grad.numel(), /*aligned=*/true, op);
      });
    });
  });
}

}  // namespace trireme::cuda
