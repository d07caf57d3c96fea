// The two passes of attention over the parts of attention_tiles.h (Dao 2023, "FlashAttention-2"). Per unit, which is 64
// positions of a query head, over the key tiles that it sees:
//   forward:  Sᵀ = K Qᵀ;  Pᵀ = exp(Sᵀ − max);  Oᵀ = Oᵀ · exp(change of max) + Vᵀ Pᵀ
//   backward: Sᵀ = K Qᵀ;  Pᵀ = exp(Sᵀ − lse);  dPᵀ = V dOᵀ;  dSᵀ = Pᵀ ∘ (dPᵀ − rowsum(dO ∘ O));
//             dV += Pᵀ dO;  dK += dSᵀ Q;  dQᵀ += Kᵀ dSᵀ
#pragma once

#include <math.h>

#include "core/ops/cpu/attention_tiles.h"

namespace trireme::cpu {
namespace {

template <class E>
struct ForwardPass : Attention<E> {
  using A = Attention<E>;
  using typename A::F;
  using typename A::I;
  using typename A::In;
  using typename A::Right;
  using typename A::S;
  using typename A::Scratch;
  using typename A::Sizes;

  // Running statistics of a unit's rows: scores without the scale.
  struct Softmax {
    alignas(64) float max[kTile];
    alignas(64) float sum[kTile];
    alignas(64) float factor[kTile];  // what the last tile's change of max multiplies earlier sums by
  };

  // Replaces the scores of one group of positions by exp(score − max) as the right operand of Vᵀ Pᵀ.
  static void softmax_tile(const Active& active, const Rows& rows, int64_t key0, int g, float scale2, float* scores,
                           Right* p, Softmax& stats) {
    const int lane = g * kRowGroup, begin = active.key_begin[g], end = active.key_end[g];
    const I low = S::load_int(rows.begin + lane), high = S::load_int(rows.position + lane);
    const F old = S::load(stats.max + lane);
    F max0 = old, max1 = old;
    for (int key = begin; key < end; key += 2) {
      float* const at = scores + key * kTile + lane;
      F s0 = S::load(at), s1 = S::load(at + kTile);
      if (key < active.inner_begin[g] || key >= active.inner_end[g]) {
        const int32_t position = static_cast<int32_t>(key0) + key;
        s0 = S::select(S::between(low, position, high), s0, S::set1(-__builtin_inff()));
        s1 = S::select(S::between(low, position + 1, high), s1, S::set1(-__builtin_inff()));
        S::store(at, s0);
        S::store(at + kTile, s1);
      }
      max0 = S::max(max0, s0);
      max1 = S::max(max1, s1);
    }
    const F max = S::max(max0, max1), scale = S::set1(scale2);
    const F offset = S::mul(max, S::set1(-scale2));
    F sum0 = S::zero(), sum1 = S::zero();
    for (int key = begin; key < end; key += 2) {
      const float* const at = scores + key * kTile + lane;
      const F p0 = exp2_lanes<S>(S::fma(S::load(at), scale, offset));
      const F p1 = exp2_lanes<S>(S::fma(S::load(at + kTile), scale, offset));
      E::store_right(p, key, lane, p0, p1);
      sum0 = S::add(sum0, p0);
      sum1 = S::add(sum1, p1);
    }
    const F factor = exp2_lanes<S>(S::mul(S::sub(old, max), scale));
    S::store(stats.max + lane, max);
    S::store(stats.factor + lane, factor);
    S::store(stats.sum + lane, S::fma(S::load(stats.sum + lane), factor, S::add(sum0, sum1)));
  }

  static void unit(const AttentionCall& call, const AttentionTask& task, const Sizes& z, Scratch& s, const Rows& rows) {
    const int64_t row0 = task.batch * call.sequence + rows.first;
    const In* const q = static_cast<const In*>(call.qkv) + row0 * z.qkv_stride + rows.head * z.dim;
    E::copy_rows(q, z.qkv_stride, rows.count, z.dim, s.copy, z.padded);
    E::columns_to_right(s.copy, z.padded, s.q_columns);
    const int following = clamp_tile(call.sequence - rows.first - kTile);
    prefetch_rows(q + kTile * z.qkv_stride, z.qkv_stride, following, z.dim);
    Softmax stats;
    for (int i = 0; i < kTile; i += 16) {
      S::store(stats.max + i, S::set1(kNoMaximum));
      S::store(stats.sum + i, S::zero());
    }
    A::fill_zero(s.result, z.tile);
    Right* const p = A::right_of(s, s.scores);
    for (int64_t t = rows.begin[0] / kTile; t * kTile < rows.first + rows.count; ++t) {
      const Active active = active_blocks(rows, t * kTile);
      A::scores_of(active, z, s.k + t * z.tile, s.q_columns, s.scores);
      for (int g = 0; g < kNumGroups; ++g) {
        if (active.key_begin[g] < active.key_end[g]) {
          softmax_tile(active, rows, t * kTile, g, call.scale * kLog2e, s.scores, p, stats);
        }
      }
      A::template add_over_keys<Into::scale_and_add>(active, z, s.v + t * z.tile, p, s.result, stats.factor);
    }
    float* const lse = call.lse + (task.batch * call.num_heads + rows.head) * call.sequence + rows.first;
    for (int i = 0; i < rows.count; ++i) {
      lse[i] = stats.max[i] * call.scale + logf(stats.sum[i]);
      stats.factor[i] = 1.0f / stats.sum[i];
    }
    In* const out = static_cast<In*>(call.out) + row0 * z.out_stride + rows.head * z.dim;
    write_transposed<S>(s.result, z.padded, stats.factor, rows.count, z.dim, s.tmp, out, z.out_stride);
  }

  static void run(const AttentionCall& call, const AttentionTask& task, std::byte* scratch) {
    const Sizes z(call);
    Scratch s(z, /*backward=*/false, scratch);
    A::pack_keys(call, z, task, s, /*backward=*/false);
    for (int64_t u = task.unit_begin; u < task.unit_end; ++u) unit(call, task, z, s, unit_rows(call, task, u));
  }
};

template <class E>
struct BackwardPass : Attention<E> {
  using A = Attention<E>;
  using typename A::F;
  using typename A::I;
  using typename A::In;
  using typename A::Left;
  using typename A::M;
  using typename A::Right;
  using typename A::S;
  using typename A::Scratch;
  using typename A::Sizes;

  struct Statistics {
    alignas(64) float minus_lse2[kTile];  // in base 2
    alignas(64) float delta[kTile];       // rowsum(dO ∘ O)
    alignas(64) float scale[kTile];
  };

  // From scores and dscores of one group of positions: P and dS without the scale, in the engine's operand forms.
  static void dscores_tile(const Active& active, const Rows& rows, int64_t key0, int g, float scale2,
                           const Statistics& stats, Scratch& s) {
    const int lane = g * kRowGroup;
    const I low = S::load_int(rows.begin + lane), high = S::load_int(rows.position + lane);
    const F scale = S::set1(scale2), offset = S::load(stats.minus_lse2 + lane), delta = S::load(stats.delta + lane);
    Left* const p_left = A::left_of(s.p_left, s.scores);
    Left* const ds_left = A::left_of(s.ds_left, s.dscores);
    for (int key = active.key_begin[g]; key < active.key_end[g]; key += 2) {
      const int64_t at = key * kTile + lane;
      F p0 = exp2_lanes<S>(S::fma(S::load(s.scores + at), scale, offset));
      F p1 = exp2_lanes<S>(S::fma(S::load(s.scores + at + kTile), scale, offset));
      F ds0 = S::mul(p0, S::sub(S::load(s.dscores + at), delta));
      F ds1 = S::mul(p1, S::sub(S::load(s.dscores + at + kTile), delta));
      if (key < active.inner_begin[g] || key >= active.inner_end[g]) {
        const int32_t position = static_cast<int32_t>(key0) + key;
        const M seen0 = S::between(low, position, high), seen1 = S::between(low, position + 1, high);
        p0 = S::select(seen0, p0, S::zero());
        p1 = S::select(seen1, p1, S::zero());
        ds0 = S::select(seen0, ds0, S::zero());
        ds1 = S::select(seen1, ds1, S::zero());
      }
      E::store_left(p_left, key, lane, p0, p1);
      E::store_left(ds_left, key, lane, ds0, ds1);
      if (!E::kInPlace) E::store_right(s.right, key, lane, ds0, ds1);
    }
  }

  // Packs Q and dO of the unit and reads its statistics.
  static void load_unit(const AttentionCall& call, const AttentionTask& task, const Sizes& z, Scratch& s,
                        const Rows& rows, Statistics& stats) {
    const int64_t row0 = task.batch * call.sequence + rows.first;
    const In* const q = static_cast<const In*>(call.qkv) + row0 * z.qkv_stride + rows.head * z.dim;
    const In* const out = static_cast<const In*>(call.out) + row0 * z.out_stride + rows.head * z.dim;
    const In* const dout = static_cast<const In*>(call.dout) + row0 * z.out_stride + rows.head * z.dim;
    const float* const lse = call.lse + (task.batch * call.num_heads + rows.head) * call.sequence + rows.first;

    Left* copy = A::left_of(s.copy, s.q_rows);
    E::copy_rows(q, z.qkv_stride, rows.count, z.dim, copy, z.padded);
    E::columns_to_right(copy, z.padded, s.q_columns);
    E::rows_to_right(copy, z.padded, s.q_rows);
    copy = A::left_of(s.copy, s.dout_rows);
    E::copy_rows(dout, z.out_stride, rows.count, z.dim, copy, z.padded);
    E::columns_to_right(copy, z.padded, s.dout_columns);
    E::rows_to_right(copy, z.padded, s.dout_rows);
    for (int i = 0; i < kTile; ++i) {
      stats.scale[i] = call.scale;
      stats.minus_lse2[i] = i < rows.count ? -lse[i] * kLog2e : 0.0f;
      const int64_t row = i * z.out_stride;
      stats.delta[i] = i < rows.count ? E::dot(dout + row, out + row, z.dim) : 0.0f;
    }
    const int following = clamp_tile(call.sequence - rows.first - kTile);
    prefetch_rows(q + kTile * z.qkv_stride, z.qkv_stride, following, z.dim);
    prefetch_rows(out + kTile * z.out_stride, z.out_stride, following, z.dim);
    prefetch_rows(dout + kTile * z.out_stride, z.out_stride, following, z.dim);
  }

  static void unit(const AttentionCall& call, const AttentionTask& task, const Sizes& z, Scratch& s, const Rows& rows,
                   float* dk, float* dv) {
    Statistics stats;
    load_unit(call, task, z, s, rows, stats);
    A::fill_zero(s.result, z.tile);
    for (int64_t t = rows.begin[0] / kTile; t * kTile < rows.first + rows.count; ++t) {
      const Active active = active_blocks(rows, t * kTile);
      const int64_t at = t * z.tile;
      A::scores_of(active, z, s.k + at, s.q_columns, s.scores);
      A::scores_of(active, z, s.v + at, s.dout_columns, s.dscores);
      for (int g = 0; g < kNumGroups; ++g) dscores_tile(active, rows, t * kTile, g, call.scale * kLog2e, stats, s);
      A::add_over_rows(active, z, A::left_of(s.p_left, s.scores), s.dout_rows, dv + at);
      A::add_over_rows(active, z, A::left_of(s.ds_left, s.dscores), s.q_rows, dk + at);
      A::template add_over_keys<Into::add>(active, z, (E::kInPlace ? s.k : s.kt) + at, A::right_of(s, s.dscores),
                                           s.result, nullptr);
    }
    In* const dq =
        static_cast<In*>(call.dqkv) + (task.batch * call.sequence + rows.first) * z.qkv_stride + rows.head * z.dim;
    write_transposed<S>(s.result, z.padded, stats.scale, rows.count, z.dim, s.tmp, dq, z.qkv_stride);
  }

  static void run(const AttentionCall& call, const AttentionTask& task, std::byte* scratch) {
    const Sizes z(call);
    Scratch s(z, /*backward=*/true, scratch);
    A::pack_keys(call, z, task, s, /*backward=*/true);
    AttentionTask own = task;
    if (own.dk == nullptr) {
      own.dk = s.dk;
      own.dv = s.dv;
    }
    const int64_t num_sums = round_up(task.key_end, kTile) * z.padded;
    A::fill_zero(own.dk, num_sums);
    A::fill_zero(own.dv, num_sums);
    for (int64_t u = task.unit_begin; u < task.unit_end; ++u) {
      unit(call, task, z, s, unit_rows(call, task, u), own.dk, own.dv);
    }
    if (task.dk == nullptr) write_kv(call, &own, 1, 0, call.sequence);
  }

  static void write_kv(const AttentionCall& call, const AttentionTask* tasks, int64_t num_tasks, int64_t begin,
                       int64_t end) {
    const Sizes z(call);
    In* const dk = A::kv_base(static_cast<In*>(call.dqkv), call, z, tasks[0], 0);
    In* const dv = A::kv_base(static_cast<In*>(call.dqkv), call, z, tasks[0], 1);
    const F scale = S::set1(call.scale);
    for (int64_t i = begin; i < end; ++i) {
      for (int j = 0; j < z.dim; j += 16) {
        F sum_k = S::zero(), sum_v = S::zero();
        for (int64_t t = 0; t < num_tasks; ++t) {
          if (i >= round_up(tasks[t].key_end, kTile)) continue;
          sum_k = S::add(sum_k, S::load(tasks[t].dk + i * z.padded + j));
          sum_v = S::add(sum_v, S::load(tasks[t].dv + i * z.padded + j));
        }
        const int n = z.dim - j < 16 ? z.dim - j : 16;
        S::store_first(dk + i * z.qkv_stride + j, S::mul(sum_k, scale), n);
        S::store_first(dv + i * z.qkv_stride + j, sum_v, n);
      }
    }
  }
};

template <class E>
constexpr AttentionKernels attention_kernels(const char* name, AttentionIsa isa) {
  return {.name = name,
          .isa = isa,
          .pad = E::kPad,
          .scratch_bytes = Attention<E>::scratch_bytes,
          .forward = ForwardPass<E>::run,
          .backward = BackwardPass<E>::run,
          .write_kv = BackwardPass<E>::write_kv};
}

}  // namespace
}  // namespace trireme::cpu
