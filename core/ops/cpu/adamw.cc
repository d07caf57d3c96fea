#include "core/ops/adamw.h"

#include <cmath>
#include <cstring>

#include "core/ops/adamw_step.h"
#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kGroup = 8;    // elements of one block of random bits
constexpr int64_t kChunk = 512;  // elements whose random bits are drawn at a time: 3 KB in the L1 cache

// The random bits of up to kChunk elements, of weight, first and second moment.
struct Draws {
  alignas(64) uint16_t bits[3][kChunk + 2 * kGroup];
};

// bits[i] = the draw of element first + i, for i in [0, count); whole groups, `first` a multiple of kGroup.
TRIREME_MULTIVERSION
void draw_groups(uint64_t key, int64_t step, math::Rounded what, int64_t first, int64_t count, uint16_t* bits) {
  uint32_t words[(kChunk + 2 * kGroup) / 2];
  const int64_t num_groups = count / kGroup;
  const int64_t first_group = first / kGroup;
#pragma omp simd
  for (int64_t g = 0; g < num_groups; ++g) {
    const PhiloxBlock block = math::rounding_block(key, step, what, first_group + g);
    words[4 * g] = block.x[0];
    words[4 * g + 1] = block.x[1];
    words[4 * g + 2] = block.x[2];
    words[4 * g + 3] = block.x[3];
  }
  std::memcpy(bits, words, static_cast<size_t>(count) * sizeof(uint16_t));  // low halves first: x86-64
}

using ops::Stored;

// Pointers to one element of every tensor; those that a kernel does not use are null.
template <class Grad, class Moment>
struct Cursor {
  const Grad* grad;
  float* master;
  bf16* weight;
  Moment* m;
  Moment* v;
};

// Elements [0, n) from `at` on, with the draws that belong to them.
template <Stored kStored, class Grad, class Moment>
TRIREME_MULTIVERSION void update_chunk(const math::AdamWStep& constants, float clip_factor,
                                       const Cursor<Grad, Moment>& at, const uint16_t* weight_bits,
                                       const uint16_t* m_bits, const uint16_t* v_bits, int64_t n) {
  const math::AdamWStep step = constants;
  const Cursor<Grad, Moment> c = at;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float old = 0;
    if constexpr (kStored == Stored::weight) {
      old = math::load(c.weight + i);
    } else {
      old = c.master[i];
    }
    const math::AdamWState s =
        math::adamw(step, math::load(c.grad + i) * clip_factor, {old, math::load(c.m + i), math::load(c.v + i)});
    if constexpr (kStored == Stored::weight) {
      math::store_stochastic(c.weight + i, s.master, weight_bits[i]);
    } else {
      c.master[i] = s.master;
      if constexpr (kStored == Stored::master_and_weight) math::store(c.weight + i, s.master);
    }
    math::store_stochastic(c.m + i, s.m, m_bits[i]);
    math::store_stochastic(c.v + i, s.v, v_bits[i]);
  }
}

// One update of a bucket, or of a part of it.
template <Stored kStored, class Grad, class Moment>
class Update {
 public:
  Update(const ops::AdamW& options, float clip_factor, const Tensor& grad, const ops::AdamWTensors& state)
      : step_(options.step),
        clip_factor_(clip_factor),
        decaying_(ops::adamw_step(options)),
        not_decaying_(decaying_),
        all_{grad.data<Grad>(), kStored == Stored::weight ? nullptr : state.master.data<float>(),
             kStored == Stored::master ? nullptr : state.weight.data<bf16>(), state.m.data<Moment>(),
             state.v.data<Moment>()} {
    not_decaying_.decay = 0;
  }

  // Positions [begin, end), which lie in `range`.
  void run(const ops::UpdateRange& range, int64_t begin, int64_t end) const {
    Draws draws;
    while (begin < end) {
      const ops::UpdatePiece piece = ops::piece_at(range, begin);
      if (piece.element < 0) {
        begin += piece.length;
        continue;
      }
      const int64_t element = piece.element;
      const int64_t skipped = element % kGroup;
      const int64_t n = std::min({end - begin, kChunk - skipped, piece.length});
      const int64_t drawn = (skipped + n + kGroup - 1) / kGroup * kGroup;
      const auto draw = [&](math::Rounded what) {
        uint16_t* bits = draws.bits[static_cast<int>(what)];
        draw_groups(static_cast<uint64_t>(range.key), step_, what, element - skipped, drawn, bits);
      };
      if constexpr (kStored == Stored::weight) draw(math::Rounded::weight);
      if constexpr (std::is_same_v<Moment, bf16>) {
        draw(math::Rounded::first_moment);
        draw(math::Rounded::second_moment);
      }
      const Cursor<Grad, Moment> at{all_.grad + begin, kStored == Stored::weight ? nullptr : all_.master + begin,
                                    kStored == Stored::master ? nullptr : all_.weight + begin, all_.m + begin,
                                    all_.v + begin};
      update_chunk<kStored>(range.decays != 0 ? decaying_ : not_decaying_, clip_factor_, at, draws.bits[0] + skipped,
                            draws.bits[1] + skipped, draws.bits[2] + skipped, n);
      begin += n;
    }
  }

 private:
  int64_t step_;
  float clip_factor_;
  math::AdamWStep decaying_;
  math::AdamWStep not_decaying_;
  Cursor<Grad, Moment> all_;
};

template <Stored kStored, class Grad, class Moment>
void update_all(ThreadPool& pool, const Update<kStored, Grad, Moment>& update, const Tensor& ranges, int64_t n) {
  const auto* rows = reinterpret_cast<const ops::UpdateRange*>(ranges.data<int64_t>());
  const int64_t num_rows = ranges.dim(0);
  pool.for_ranges(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = ops::find_range(rows, num_rows, begin); r < num_rows && rows[r].begin < end; ++r) {
      update.run(rows[r], std::max(begin, rows[r].begin), std::min(end, rows[r].end));
    }
  });
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

void adamw_update(Stream& stream, const ops::AdamW& options, const ops::UpdateScalars& scalars, const Tensor& ranges,
                  const Tensor& grad, ops::AdamWTensors& state) {
  if (*scalars.non_finite.data<int32_t>() != 0) return;
  const float clip_factor = *scalars.clip_factor.data<float>();
  with_float_type(grad.dtype(), [&]<class Grad>(Grad) {
    with_float_type(state.m.dtype(), [&]<class Moment>(Moment) {
      ops::with_stored(state, [&]<Stored kStored>() {
        const Update<kStored, Grad, Moment> update(options, clip_factor, grad, state);
        update_all(stream.pool(), update, ranges, grad.numel());
      });
    });
  });
}

}  // namespace trireme::cpu
