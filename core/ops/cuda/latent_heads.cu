#include "core/ops/latent_heads.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

using ops::LatentHeads;

// Where a column of a matrix of heads belongs.
struct HeadColumn {
  int head;
  int i;  // inside the head
};

__device__ __forceinline__ HeadColumn head_column(int column, const Divider& width) {
  const auto head = width.quotient(static_cast<uint32_t>(column));
  return {static_cast<int>(head), column - static_cast<int>(head * width.divisor())};
}

template <int kN>
__device__ __forceinline__ Floats<kN> zeros() {
  Floats<kN> out;
#pragma unroll
  for (int j = 0; j < kN; ++j) out.x[j] = 0.0f;
  return out;
}

// Shapes as kernels want them, and the angles of rows.
struct Heads {
  Heads(const LatentHeads& heads, const Tensor& position_of_rows, const Tensor& angle_table)
      : num_heads(static_cast<int>(heads.num_heads)),
        nope(static_cast<int>(heads.nope)),
        rope(static_cast<int>(heads.rope)),
        v(static_cast<int>(heads.v)),
        width(static_cast<int>(heads.width())),
        positions(position_of_rows.data<int32_t>()),
        table(angle_table.data<float>()) {}

  // rope/2 cosines, then rope/2 sines.
  __device__ const float* angles_of(int64_t row) const { return table + static_cast<int64_t>(positions[row]) * rope; }

  int num_heads, nope, rope, v, width;
  const int32_t* positions;
  const float* table;
};

// Elements [i, i + kN) of a rotated part that begins at `from`, turned by `sign` times the angles.
template <int kN, class T>
__device__ __forceinline__ Floats<kN> rotated(const T* from, int i, const float* angles, int half, float sign) {
  Floats<kN> out;
  if constexpr (kN == 1) {
    const float a = load<1>(from + i / 2 * 2).x[0];
    const float b = load<1>(from + i / 2 * 2 + 1).x[0];
    const math::Turned<float> pair = math::turn(a, b, angles[i / 2], sign * angles[half + i / 2]);
    out.x[0] = i % 2 == 0 ? pair.a : pair.b;
  } else {
    const Floats<kN> in = load<kN>(from + i);
#pragma unroll
    for (int j = 0; j < kN; j += 2) {
      const math::Turned<float> pair =
          math::turn(in.x[j], in.x[j + 1], angles[(i + j) / 2], sign * angles[half + (i + j) / 2]);
      out.x[j] = pair.a;
      out.x[j + 1] = pair.b;
    }
  }
  return out;
}

// Elements [i, i + kN) of a query or a key, whose parts without and with positions begin at `plain` and `rope`.
template <int kN, class T>
__device__ __forceinline__ Floats<kN> query_or_key(const Heads& h, int64_t row, const T* plain, const T* rope, int i,
                                                   float sign) {
  if (i < h.nope) return load<kN>(plain + i);
  return rotated<kN>(rope, i - h.nope, h.angles_of(row), h.rope / 2, sign);
}

template <class T>
struct Pack {
  const T* q;
  const T* kv;
  const T* k_rope;
  T* qkv;
  Heads h;
  Divider width;

  // `column` of the 3·H·D.
  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const HeadColumn c = head_column(static_cast<int>(column), width);
    const int section = c.head / h.num_heads;
    const int head = c.head - section * h.num_heads;
    const T* of_q = q + (row * h.num_heads + head) * (h.nope + h.rope);
    const T* of_kv = kv + (row * h.num_heads + head) * (h.nope + h.v);
    Floats<kN> out;
    if (section == 2) {
      out = c.i < h.v ? load<kN>(of_kv + h.nope + c.i) : zeros<kN>();
    } else if (c.i >= h.nope + h.rope) {
      out = zeros<kN>();
    } else if (section == 0) {
      out = query_or_key<kN>(h, row, of_q, of_q + h.nope, c.i, 1.0f);
    } else {
      out = query_or_key<kN>(h, row, of_kv, k_rope + row * h.rope, c.i, 1.0f);
    }
    store<kN>(qkv + row * 3 * h.num_heads * h.width + column, out);
  }
};

template <class T>
struct UnpackQueries {
  const T* dqkv;
  T* dq;
  Heads h;
  Divider qk;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const HeadColumn c = head_column(static_cast<int>(column), qk);
    const T* from = dqkv + (row * 3 * h.num_heads + c.head) * h.width;
    store<kN>(dq + row * h.num_heads * (h.nope + h.rope) + column,
              query_or_key<kN>(h, row, from, from + h.nope, c.i, -1.0f));
  }
};

template <class T>
struct UnpackKeysAndValues {
  const T* dqkv;
  T* dkv;
  Heads h;
  Divider kv;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const HeadColumn c = head_column(static_cast<int>(column), kv);
    const bool value = c.i >= h.nope;
    const T* from = dqkv + (row * 3 * h.num_heads + (value ? 2 : 1) * h.num_heads + c.head) * h.width;
    store<kN>(dkv + row * h.num_heads * (h.nope + h.v) + column, load<kN>(from + (value ? c.i - h.nope : c.i)));
  }
};

// One pair of the shared key part: summed over heads in their order, then rotated back.
template <class T>
struct UnpackSharedKey {
  const T* dqkv;
  T* dk_rope;
  Heads h;

  template <int kN>
  __device__ void run(int64_t row, int64_t pair) const {
    const T* from = dqkv + (row * 3 + 1) * h.num_heads * h.width + h.nope + 2 * pair;
    float a = 0;
    float b = 0;
    for (int head = 0; head < h.num_heads; ++head, from += h.width) {
      a += load<1>(from).x[0];
      b += load<1>(from + 1).x[0];
    }
    const float* angles = h.angles_of(row);
    const math::Turned<float> turned = math::turn(a, b, angles[pair], -angles[h.rope / 2 + pair]);
    T* to = dk_rope + row * h.rope + 2 * pair;
    math::store(to, turned.a);
    math::store(to + 1, turned.b);
  }
};

template <class T>
struct ResizeHeads {
  const T* x;
  T* y;
  int num_heads;
  int from;
  Divider to;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const HeadColumn c = head_column(static_cast<int>(column), to);
    store<kN>(y + row * num_heads * to.divisor() + column,
              c.i < from ? load<kN>(x + (row * num_heads + c.head) * from + c.i) : zeros<kN>());
  }
};

template <int kWidth>
bool fits(const LatentHeads& heads) {
  return heads.nope % kWidth == 0 && heads.rope % kWidth == 0 && heads.v % kWidth == 0 && heads.width() % kWidth == 0;
}

}  // namespace

void pack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& q, const Tensor& kv,
                       const Tensor& k_rope, const Tensor& positions, const Tensor& table, Tensor& qkv) {
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const Pack<T> op{q.data<T>(),
                     kv.data<T>(),
                     k_rope.data<T>(),
                     qkv.data<T>(),
                     Heads(heads, positions, table),
                     Divider(static_cast<uint32_t>(heads.width()))};
    const bool aligned = fits<kWidth>(heads) && is_aligned<kWidth>(op.q) && is_aligned<kWidth>(op.kv) &&
                         is_aligned<kWidth>(op.k_rope) && is_aligned<kWidth>(op.qkv);
    for_rows<kWidth>(stream, qkv.dim(0), qkv.dim(1), aligned, op);
  });
}

void unpack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& dqkv, const Tensor& positions,
                         const Tensor& table, Tensor& dq, Tensor& dkv, Tensor& dk_rope) {
  const Heads h(heads, positions, table);
  with_float_type(dqkv.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const T* from = dqkv.data<T>();
    const bool wide = fits<kWidth>(heads) && is_aligned<kWidth>(from);
    const UnpackQueries<T> queries{from, dq.data<T>(), h, Divider(static_cast<uint32_t>(heads.qk()))};
    for_rows<kWidth>(stream, dq.dim(0), dq.dim(1), wide && is_aligned<kWidth>(queries.dq), queries);
    const UnpackKeysAndValues<T> others{from, dkv.data<T>(), h, Divider(static_cast<uint32_t>(heads.nope + heads.v))};
    for_rows<kWidth>(stream, dkv.dim(0), dkv.dim(1), wide && is_aligned<kWidth>(others.dkv), others);
    const UnpackSharedKey<T> shared{from, dk_rope.data<T>(), h};
    for_rows<1>(stream, dk_rope.dim(0), heads.rope / 2, /*aligned=*/false, shared);
  });
}

void resize_heads(Stream& stream, const Tensor& x, int64_t num_heads, Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t from = x.dim(1) / num_heads;
  const int64_t to = y.dim(1) / num_heads;
  with_float_type(x.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const ResizeHeads<T> op{x.data<T>(), y.data<T>(), static_cast<int>(num_heads), static_cast<int>(from),
                            Divider(static_cast<uint32_t>(to))};
    const bool aligned = from % kWidth == 0 && to % kWidth == 0 && is_aligned<kWidth>(op.x) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, y.dim(0), y.dim(1), aligned, op);
  });
}

}  // namespace trireme::cuda
