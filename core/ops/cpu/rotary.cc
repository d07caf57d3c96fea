#include "core/ops/rotary.h"

#include "core/ops/cpu/bf16_loops.h"
#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

// Rotates the heads at the start of one row by the angles of `cos` and `sign` · `sin`, each [half].
template <class T>
TRIREME_MULTIVERSION void rotate_row(T* row, const float* cos, const float* sin, float sign, int64_t num_heads,
                                     int64_t half) {
  for (int64_t h = 0; h < num_heads; ++h) {
    T* a = row + h * 2 * half;
    T* b = a + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const math::Turned<float> pair = math::turn(math::load(a + i), math::load(b + i), cos[i], sign * sin[i]);
      math::store(a + i, pair.a);
      math::store(b + i, pair.b);
    }
  }
}

}  // namespace

void rotary(Stream& stream, Tensor& qkv, const Tensor& positions, const Tensor& table, int64_t num_rotated,
            int64_t head_dim, bool inverse) {
  const int64_t columns = qkv.dim(1);
  const int64_t half = head_dim / 2;
  const float* angles = table.data<float>();
  const int32_t* position = positions.data<int32_t>();
  const float sign = inverse ? -1.0f : 1.0f;
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    T* rows = qkv.data<T>();
    const auto loop = loop_for(rotate_row<T>, &Bf16Loops::rotate_row);
    stream.pool().for_ranges(qkv.dim(0), rows_per_piece(num_rotated * head_dim), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        TRIREME_CHECK(position[n] >= 0 && position[n] < table.dim(0), "a position lies outside the rotary table");
        const float* cos = angles + position[n] * head_dim;
        loop(rows + n * columns, cos, cos + half, sign, num_rotated, half);
      }
    });
  });
}

}  // namespace trireme::cpu
