// What the two passes of attention share, over an engine of attention_engine.h: which blocks the mask leaves, the
// scratch of a task, packing of keys and values, and the three products of tiles.
//
// Tiles of scores are kept transposed, Sᵀ [keys, positions], with query positions along the vector lanes: maxima, sums
// and masks are then plain vector arithmetic. Blocks of 8 keys by 16 positions that the mask empties are skipped; in
// those that it cuts, masked probabilities are exact zeros. Exponentials are base 2: the scale carries log2(e).
#pragma once

#include "core/ops/cpu/attention_engine.h"
#include "core/ops/cpu/attention_task.h"
#include "core/ops/cpu/exp2_lanes.h"

namespace trireme::cpu {
namespace {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kNoMaximum = -1e30f;  // below every finite score, and finite: differences stay defined

static_assert(kTile == kAttentionRowTile);

// The query positions of a unit and what each sees.
struct Rows {
  int64_t head;
  int first;                         // position in the sequence
  int count;                         // up to kTile
  alignas(64) int32_t begin[kTile];  // keys begin … position; padding sees nothing
  alignas(64) int32_t position[kTile];
};

// Which blocks of a tile of scores the mask leaves, as keys relative to the tile.
struct Active {
  int key_begin[kNumGroups], key_end[kNumGroups];      // whole key blocks, for a group of 16 positions
  int inner_begin[kNumGroups], inner_end[kNumGroups];  // even; no mask needed inside
  int group_begin[kNumBlocks], group_end[kNumBlocks];  // groups, for a block of 8 keys
};

[[gnu::always_inline]] inline int clamp_tile(int64_t x) {
  return static_cast<int>(x < 0 ? 0 : (x > kTile ? kTile : x));
}

inline Rows unit_rows(const AttentionCall& call, const AttentionTask& task, int64_t unit) {
  const int64_t per_head = (call.sequence + kTile - 1) / kTile;
  Rows rows;
  rows.head = task.kv_head * (call.num_heads / call.num_kv_heads) + unit / per_head;
  rows.first = static_cast<int>(unit % per_head * kTile);
  rows.count = clamp_tile(call.sequence - rows.first);
  const int32_t* start = call.document_start == nullptr ? nullptr : call.document_start + task.batch * call.sequence;
  for (int i = 0; i < kTile; ++i) {
    const bool real = i < rows.count;
    rows.position[i] = rows.first + i;
    rows.begin[i] = !real ? INT32_MAX : (start == nullptr ? 0 : start[rows.first + i]);
  }
  return rows;
}

inline Active active_blocks(const Rows& rows, int64_t key0) {
  Active active;
  for (int g = 0; g < kNumGroups; ++g) {
    const int r0 = g * kRowGroup;
    const bool full = r0 + kRowGroup <= rows.count;
    const int r1 = (full ? r0 + kRowGroup : rows.count) - 1;
    int begin = kTile, end = kTile, inner_begin = 0, inner_end = 0;
    if (r0 < rows.count) {
      begin = clamp_tile(rows.begin[r0] - key0);
      end = clamp_tile(rows.first + r1 + 1 - key0);
      if (full) {
        inner_begin = clamp_tile(rows.begin[r1] - key0 + 1) & ~1;
        inner_end = clamp_tile(rows.first + r0 + 1 - key0) & ~1;
      }
    }
    active.key_begin[g] = begin / kKeyBlock * kKeyBlock;
    active.key_end[g] = end > begin ? static_cast<int>(round_up(end, kKeyBlock)) : active.key_begin[g];
    active.inner_begin[g] = inner_begin;
    active.inner_end[g] = inner_end;
  }
  for (int b = 0; b < kNumBlocks; ++b) {
    active.group_begin[b] = active.group_end[b] = 0;
    for (int g = 0; g < kNumGroups; ++g) {
      if (b * kKeyBlock < active.key_begin[g] || b * kKeyBlock >= active.key_end[g]) continue;
      if (active.group_begin[b] == active.group_end[b]) active.group_begin[b] = g;
      active.group_end[b] = g + 1;
    }
  }
  return active;
}

// Carves arrays out of a task's scratch; with a null base it only counts.
struct Carver {
  std::byte* base;
  int64_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* const result = base == nullptr ? nullptr : static_cast<T*>(static_cast<void*>(base + used));
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return result;
  }
};

template <class E>
struct Attention {
  using S = typename E::Simd;
  using F = typename S::F;
  using I = typename S::I;
  using M = typename S::M;
  using In = typename E::In;
  using Left = typename E::Left;
  using Right = typename E::Right;

  static int64_t padded_dim(int64_t head_dim) { return round_up(head_dim, E::kPad); }

  struct Sizes {
    explicit Sizes(const AttentionCall& call)
        : dim(static_cast<int>(call.head_dim)),
          padded(padded_dim(call.head_dim)),
          dim_groups(static_cast<int>((dim + 15) / 16)),
          num_tiles((call.sequence + kTile - 1) / kTile),
          qkv_stride((call.num_heads + 2 * call.num_kv_heads) * call.head_dim),
          out_stride(call.num_heads * call.head_dim),
          tile(kTile * padded) {}
    int dim;
    int64_t padded;
    int dim_groups;  // vectors that hold a row
    int64_t num_tiles;
    int64_t qkv_stride, out_stride;
    int64_t tile;  // elements of a packed tile of K or V
  };

  // Scratch of one task. Tiles of K and V are packed when the task starts and serve all of its units.
  struct Scratch {
    Scratch(const Sizes& z, bool backward, std::byte* base) {
      Carver carver{base};
      k = carver.take<Left>(z.num_tiles * z.tile);
      v = carver.take<Left>(z.num_tiles * z.tile);
      kt = E::kInPlace || !backward ? nullptr : carver.take<Left>(z.num_tiles * z.tile);
      copy = carver.take<Left>(z.tile);
      tmp = carver.take<float>(z.tile);
      q_columns = carver.take<Right>(z.tile);
      scores = carver.take<float>(kTile * kTile);
      result = carver.take<float>(z.tile);
      if (!E::kInPlace) right = carver.take<Right>(kTile * kTile / 2);
      if (backward) {
        dout_columns = carver.take<Right>(z.tile);
        q_rows = carver.take<Right>(z.tile);
        dout_rows = carver.take<Right>(z.tile);
        dscores = carver.take<float>(kTile * kTile);
        if (!E::kInPlace) p_left = carver.take<Left>(kTile * kTile);
        if (!E::kInPlace) ds_left = carver.take<Left>(kTile * kTile);
        dk = carver.take<float>(z.num_tiles * z.tile);
        dv = carver.take<float>(z.num_tiles * z.tile);
      }
      bytes = carver.used;
    }
    Left *k, *v, *kt;                               // forward: v is Vᵀ where the engine cannot read V transposed
    Left* copy;                                     // [kTile, padded] staging
    float* tmp;                                     // [kTile, padded] staging
    Right *q_columns, *dout_columns = nullptr;      // Qᵀ, dOᵀ: [depth(dim), kTile]
    Right *q_rows = nullptr, *dout_rows = nullptr;  // Q, dO: [depth(kTile), padded]
    float *scores, *dscores = nullptr;              // Sᵀ, dPᵀ: [kTile, kTile]; in place Pᵀ, dSᵀ
    Right* right = nullptr;                         // Pᵀ or dSᵀ: [depth(kTile), kTile]
    Left *p_left = nullptr, *ds_left = nullptr;     // Pᵀ, dSᵀ: [kTile, kTile]
    float* result;                                  // Oᵀ or dQᵀ: [padded, kTile]
    float *dk = nullptr, *dv = nullptr;             // [keys, padded]
    int64_t bytes;
  };

  static int64_t scratch_bytes(const AttentionCall& call, bool backward) {
    return Scratch(Sizes(call), backward, nullptr).bytes;
  }

  // The first row of a key head's keys (which = 0) or values (1) in a tensor shaped as qkv.
  template <class T>
  static T* kv_base(T* qkv, const AttentionCall& call, const Sizes& z, const AttentionTask& task, int which) {
    return qkv + task.batch * call.sequence * z.qkv_stride +
           (call.num_heads + which * call.num_kv_heads + task.kv_head) * z.dim;
  }

  // Key tiles [first, last) that the task's units see.
  static void key_tiles(const AttentionCall& call, const AttentionTask& task, int64_t& first, int64_t& last) {
    const int64_t per_head = (call.sequence + kTile - 1) / kTile;
    last = (task.key_end + kTile - 1) / kTile;
    first = last;
    for (int64_t unit = task.unit_begin; unit < task.unit_end; ++unit) {
      const int64_t row = unit % per_head * kTile;
      const int64_t key = call.document_start == nullptr ? 0 : call.document_start[task.batch * call.sequence + row];
      if (key / kTile < first) first = key / kTile;
    }
  }

  static void pack_keys(const AttentionCall& call, const Sizes& z, const AttentionTask& task, Scratch& s,
                        bool backward) {
    int64_t first = 0, last = 0;
    key_tiles(call, task, first, last);
    const In* const k = kv_base(static_cast<const In*>(call.qkv), call, z, task, 0);
    const In* const v = kv_base(static_cast<const In*>(call.qkv), call, z, task, 1);
    for (int64_t t = first; t < last; ++t) {
      const int64_t at = t * kTile * z.qkv_stride;
      const int count = clamp_tile(call.sequence - t * kTile);
      E::copy_rows(k + at, z.qkv_stride, count, z.dim, s.k + t * z.tile, z.padded);
      if (backward) E::rows_to_transposed_left(s.k + t * z.tile, z.padded, s.tmp, s.kt + t * z.tile);
      Left* const values = backward || E::kInPlace ? s.v + t * z.tile : s.copy;
      E::copy_rows(v + at, z.qkv_stride, count, z.dim, values, z.padded);
      if (!backward) E::rows_to_transposed_left(values, z.padded, s.tmp, s.v + t * z.tile);
    }
  }

  // Where the engine works in place, operands lie where the scores (or the packed rows) are.
  template <class T>
  static Left* left_of(Left* own, [[maybe_unused]] T* in_place) {
    if constexpr (E::kInPlace) return in_place;
    return own;
  }
  static Right* right_of(Scratch& s, [[maybe_unused]] float* in_place) {
    if constexpr (E::kInPlace) return in_place;
    return s.right;
  }
  static void fill_zero(float* p, int64_t count) {  // a multiple of 16
    for (int64_t i = 0; i < count; i += 16) S::store(p + i, S::zero());
  }

  // Sᵀ-like [kTile, kTile] = left [kTile keys, dim] · right [dim, kTile positions], active blocks only.
  static void scores_of(const Active& active, const Sizes& z, const Left* left, const Right* right, float* scores) {
    const int depth = E::depth(z.dim);
    for (int b = 0; b < kNumBlocks; ++b) {
      int g = active.group_begin[b];
      const int end = active.group_end[b];
      const Left* const a = left + b * kKeyBlock * z.padded;
      float* const c = scores + b * kKeyBlock * kTile;
      for (; g + S::kNv <= end; g += S::kNv) {
        E::template block<S::kNv, Into::set>(a, z.padded, 1, right + g * 16, kTile, depth, c + g * 16, kTile, nullptr);
      }
      for (; g < end; ++g) {
        E::template block<1, Into::set>(a, z.padded, 1, right + g * 16, kTile, depth, c + g * 16, kTile, nullptr);
      }
    }
  }

  // result [dims, kTile positions] (+)= leftᵀ [dims, keys] · right [keys, kTile positions].
  template <Into into>
  static void add_over_keys(const Active& active, const Sizes& z, const Left* left_t, const Right* right, float* result,
                            const float* factor) {
    const int64_t row = E::kInPlace ? 1 : kTile;
    const int64_t step = E::kInPlace ? z.padded : 1;
    for (int g = 0; g < kNumGroups;) {
      const int begin = active.key_begin[g], end = active.key_end[g];
      const bool pair =
          S::kNv == 2 && g + 1 < kNumGroups && active.key_begin[g + 1] == begin && active.key_end[g + 1] == end;
      if (begin < end) {
        const Left* a = left_t + begin * step;
        const Right* const b = right + E::depth(begin) * kTile + g * 16;
        const int depth = E::depth(end - begin);
        const float* const f = factor == nullptr ? nullptr : factor + g * 16;
        for (int d = 0; d < z.dim; d += kKeyBlock, a += kKeyBlock * row) {
          float* const c = result + d * kTile + g * 16;
          if (pair) {
            E::template block<S::kNv, into>(a, row, step, b, kTile, depth, c, kTile, f);
          } else {
            E::template block<1, into>(a, row, step, b, kTile, depth, c, kTile, f);
          }
        }
      }
      g += pair ? 2 : 1;
    }
  }

  // sums [kTile keys, dim] += left [kTile keys, kTile positions] · right [kTile positions, dim].
  static void add_over_rows(const Active& active, const Sizes& z, const Left* left, const Right* right, float* sums) {
    for (int b = 0; b < kNumBlocks; ++b) {
      const int begin = active.group_begin[b] * kRowGroup, end = active.group_end[b] * kRowGroup;
      if (begin == end) continue;
      const Left* const a = left + b * kKeyBlock * kTile + begin;
      const Right* const right_rows = right + E::depth(begin) * z.padded;
      const int depth = E::depth(end - begin);
      float* const c = sums + b * kKeyBlock * z.padded;
      int g = 0;
      for (; g + S::kNv <= z.dim_groups; g += S::kNv) {
        E::template block<S::kNv, Into::add>(a, kTile, 1, right_rows + g * 16, z.padded, depth, c + g * 16, z.padded,
                                             nullptr);
      }
      for (; g < z.dim_groups; ++g) {
        E::template block<1, Into::add>(a, kTile, 1, right_rows + g * 16, z.padded, depth, c + g * 16, z.padded,
                                        nullptr);
      }
    }
  }
};

}  // namespace
}  // namespace trireme::cpu
