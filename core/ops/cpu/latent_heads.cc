#include "core/ops/latent_heads.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

using ops::LatentHeads;

// Angles of one token, [rope/2] each.
struct Angles {
  const float* cos;
  const float* sin;
};

class AngleTable {
 public:
  AngleTable(const Tensor& table, const Tensor& positions)
      : table_(table.data<float>()),
        positions_(positions.data<int32_t>()),
        num_positions_(table.dim(0)),
        width_(table.dim(1)) {}

  Angles of(int64_t token) const {
    const int64_t position = positions_[token];
    TRIREME_CHECK(position >= 0 && position < num_positions_, "a position lies outside the rotary table");
    const float* cos = table_ + position * width_;
    return {cos, cos + width_ / 2};
  }

 private:
  const float* table_;
  const int32_t* positions_;
  int64_t num_positions_;
  int64_t width_;
};

template <class From, class To>
void rotate(const From* from, const Angles& angles, float sign, int64_t width, To* to) {
  for (int64_t i = 0; i < width / 2; ++i) {
    const math::Turned<float> pair =
        math::turn(math::load(from + 2 * i), math::load(from + 2 * i + 1), angles.cos[i], sign * angles.sin[i]);
    math::store(to + 2 * i, pair.a);
    math::store(to + 2 * i + 1, pair.b);
  }
}

template <class T>
void copy(const T* from, T* to, int64_t n) {
  if (n > 0) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

template <class T>
void zero(T* to, int64_t n) {
  std::fill(to, to + n, T{});
}

}  // namespace

void pack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& q, const Tensor& kv,
                       const Tensor& k_rope, const Tensor& positions, const Tensor& table, Tensor& qkv) {
  const AngleTable table_of(table, positions);
  const int64_t width = heads.width();
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    stream.pool().for_ranges(qkv.dim(0), rows_per_piece(qkv.dim(1)), [&](int64_t begin, int64_t end) {
      std::vector<T> shared(static_cast<size_t>(heads.rope));
      for (int64_t n = begin; n < end; ++n) {
        const Angles angles = table_of.of(n);
        rotate(k_rope.data<T>() + n * heads.rope, angles, 1.0f, heads.rope, shared.data());
        for (int64_t h = 0; h < heads.num_heads; ++h) {
          const T* from_q = q.data<T>() + n * q.dim(1) + h * heads.qk();
          const T* from_kv = kv.data<T>() + n * kv.dim(1) + h * (heads.nope + heads.v);
          T* query = qkv.data<T>() + n * qkv.dim(1) + h * width;
          T* key = query + heads.num_heads * width;
          T* value = key + heads.num_heads * width;
          copy(from_q, query, heads.nope);
          rotate(from_q + heads.nope, angles, 1.0f, heads.rope, query + heads.nope);
          zero(query + heads.qk(), width - heads.qk());
          copy(from_kv, key, heads.nope);
          copy(shared.data(), key + heads.nope, heads.rope);
          zero(key + heads.qk(), width - heads.qk());
          copy(from_kv + heads.nope, value, heads.v);
          zero(value + heads.v, width - heads.v);
        }
      }
    });
  });
}

void unpack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& dqkv, const Tensor& positions,
                         const Tensor& table, Tensor& dq, Tensor& dkv, Tensor& dk_rope) {
  const AngleTable table_of(table, positions);
  const int64_t width = heads.width();
  with_float_type(dqkv.dtype(), [&]<class T>(T) {
    stream.pool().for_ranges(dqkv.dim(0), rows_per_piece(dqkv.dim(1)), [&](int64_t begin, int64_t end) {
      std::vector<float> shared(static_cast<size_t>(heads.rope));
      for (int64_t n = begin; n < end; ++n) {
        const Angles angles = table_of.of(n);
        std::fill(shared.begin(), shared.end(), 0.0f);
        for (int64_t h = 0; h < heads.num_heads; ++h) {
          T* to_q = dq.data<T>() + n * dq.dim(1) + h * heads.qk();
          T* to_kv = dkv.data<T>() + n * dkv.dim(1) + h * (heads.nope + heads.v);
          const T* query = dqkv.data<T>() + n * dqkv.dim(1) + h * width;
          const T* key = query + heads.num_heads * width;
          const T* value = key + heads.num_heads * width;
          copy(query, to_q, heads.nope);
          rotate(query + heads.nope, angles, -1.0f, heads.rope, to_q + heads.nope);
          copy(key, to_kv, heads.nope);
          copy(value, to_kv + heads.nope, heads.v);
          for (int64_t i = 0; i < heads.rope; ++i) shared[static_cast<size_t>(i)] += math::load(key + heads.nope + i);
        }
        rotate(shared.data(), angles, -1.0f, heads.rope, dk_rope.data<T>() + n * heads.rope);
      }
    });
  });
}

void resize_heads(Stream& stream, const Tensor& x, int64_t num_heads, Tensor& y) {
  const int64_t from = x.dim(1) / num_heads;
  const int64_t to = y.dim(1) / num_heads;
  const int64_t kept = std::min(from, to);
  with_float_type(x.dtype(), [&]<class T>(T) {
    stream.pool().for_ranges(x.dim(0), rows_per_piece(y.dim(1)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * num_heads; i < end * num_heads; ++i) {
        copy(x.data<T>() + i * from, y.data<T>() + i * to, kept);
        zero(y.data<T>() + i * to + kept, to - kept);
      }
    });
  });
}

}  // namespace trireme::cpu
