#include "core/ops/rotary.h"

#include <cmath>

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// Heads that one thread rotates by the angles it has loaded.
constexpr int kHeads = 4;

// Rotates element `i` … of the first half of kHeads heads, with what belongs to it in the second half. As elements of
// a row that for_rows goes over count those of the first halves of ⌈H / kHeads⌉ heads.
template <class T>
struct Rotate {
  T* qkv;
  const int32_t* positions;
  const float* table;
  int64_t columns;
  Divider half;
  int num_rotated;
  float sign;

  template <int kN>
  __device__ void run(int64_t row, int64_t item) const {
    const uint32_t group = half.quotient(static_cast<uint32_t>(item));
    const uint32_t i = static_cast<uint32_t>(item) - group * half.divisor();
    const float* angles = table + static_cast<int64_t>(positions[row]) * 2 * half.divisor() + i;
    const Floats<kN> cos = load<kN>(angles);
    Floats<kN> sin = load<kN>(angles + half.divisor());
#pragma unroll
    for (int j = 0; j < kN; ++j) sin.x[j] *= sign;
    const int begin = static_cast<int>(group) * kHeads;
    T* head = qkv + row * columns + static_cast<int64_t>(begin) * 2 * half.divisor() + i;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (begin + h < num_rotated) rotate<kN>(head + h * 2 * half.divisor(), cos, sin);
    }
  }

  template <int kN>
  __device__ __forceinline__ void rotate(T* a, const Floats<kN>& cos, const Floats<kN>& sin) const {
    T* b = a + half.divisor();
    Floats<kN> x = load<kN>(a);
    Floats<kN> y = load<kN>(b);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const math::Turned<float> pair = math::turn(x.x[j], y.x[j], cos.x[j], sin.x[j]);
      x.x[j] = pair.a;
      y.x[j] = pair.b;
    }
    store<kN>(a, x);
    store<kN>(b, y);
  }
};

}  // namespace

void rotary(Stream& stream, Tensor& qkv, const Tensor& positions, const Tensor& table, int64_t num_rotated,
            int64_t head_dim, bool inverse) {
  const int64_t half = head_dim / 2;
  const int64_t columns = qkv.dim(1);
  TRIREME_CHECK(columns <= INT32_MAX, "rotary: a row of too many elements");
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const Rotate<T> op{.qkv = qkv.data<T>(),
                       .positions = positions.data<int32_t>(),
                       .table = table.data<float>(),
                       .columns = columns,
                       .half = Divider(static_cast<uint32_t>(half)),
                       .num_rotated = static_cast<int>(num_rotated),
                       .sign = inverse ? -1.0f : 1.0f};
    const bool aligned =
        half % kWidth == 0 && columns % kWidth == 0 && is_aligned<kWidth>(op.qkv) && is_aligned<kWidth>(op.table);
    for_rows<kWidth>(stream, qkv.dim(0), ceil_div(num_rotated, kHeads) * half, aligned, op);
  });
}

}  // namespace trireme::cuda
