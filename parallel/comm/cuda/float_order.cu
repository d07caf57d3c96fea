#include "parallel/comm/cuda/float_order.h"

#include <limits>
#include <type_traits>

#include "core/device/cuda/launch.h"
#include "core/host_device.h"

namespace trireme::cuda {

namespace {

// The bits of a floating-point number and the integers of their size; bf16 travels as fp32.
template <class T>
struct Bits {
  using Key = int32_t;
  static TRIREME_HOST_DEVICE int32_t of(T value) { return bit_cast<int32_t>(static_cast<float>(value)); }
  static TRIREME_HOST_DEVICE T value(int32_t bits) { return T(bit_cast<float>(bits)); }
};
template <>
struct Bits<double> {
  using Key = int64_t;
  static TRIREME_HOST_DEVICE int64_t of(double value) { return bit_cast<int64_t>(value); }
  static TRIREME_HOST_DEVICE double value(int64_t bits) { return bit_cast<double>(bits); }
};

// Among negative numbers a larger magnitude is a larger integer, so those are turned round. Its own inverse.
template <class Key>
TRIREME_HOST_DEVICE Key turn_negatives(Key bits) {
  constexpr auto kAllButSign = static_cast<Key>(~std::make_unsigned_t<Key>{0} >> 1);
  return bits < 0 ? bits ^ kAllButSign : bits;
}

template <class T, class Key>
__global__ void to_keys_kernel(const T* values, int64_t n, Key nan_key, Key* keys) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const auto value = static_cast<float>(values[i]);  // NaN for NaN, also from fp64
  keys[i] = value != value ? nan_key : turn_negatives(Bits<T>::of(values[i]));
}

// The keys of NaN turn into bits of a NaN.
template <class T, class Key>
__global__ void from_keys_kernel(const Key* keys, int64_t n, T* values) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) values[i] = Bits<T>::value(turn_negatives(keys[i]));
}

constexpr int kThreads = 256;

template <class T>
void to_keys(Stream& stream, const Tensor& values, bool nan_is_largest, const Tensor& keys) {
  using Key = typename Bits<T>::Key;
  const int64_t n = values.numel();
  const Key nan_key = nan_is_largest ? std::numeric_limits<Key>::max() : std::numeric_limits<Key>::min();
  launch(stream, grid_size(ceil_div(n, kThreads)), kThreads, 0, to_keys_kernel<T, Key>, values.data<T>(), n, nan_key,
         keys.data<Key>());
}

template <class T>
void from_keys(Stream& stream, const Tensor& keys, const Tensor& values) {
  using Key = typename Bits<T>::Key;
  const int64_t n = values.numel();
  launch(stream, grid_size(ceil_div(n, kThreads)), kThreads, 0, from_keys_kernel<T, Key>, keys.data<Key>(), n,
         values.data<T>());
}

}  // namespace

bool has_order_keys(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f64; }

DType order_key_dtype(DType dtype) { return dtype == DType::f64 ? DType::i64 : DType::i32; }

void to_order_keys(Stream& stream, const Tensor& values, bool nan_is_largest, const Tensor& keys) {
  switch (values.dtype()) {
    case DType::f32: return to_keys<float>(stream, values, nan_is_largest, keys);
    case DType::bf16: return to_keys<bf16>(stream, values, nan_is_largest, keys);
    case DType::f64: return to_keys<double>(stream, values, nan_is_largest, keys);
    default: TRIREME_CHECK(false, "no order keys for this dtype");
  }
}

void from_order_keys(Stream& stream, const Tensor& keys, const Tensor& values) {
  switch (values.dtype()) {
    case DType::f32: return from_keys<float>(stream, keys, values);
    case DType::bf16: return from_keys<bf16>(stream, keys, values);
    case DType::f64: return from_keys<double>(stream, keys, values);
    default: TRIREME_CHECK(false, "no order keys for this dtype");
  }
}

}  // namespace trireme::cuda
