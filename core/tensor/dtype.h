// Element types of tensors, and bf16 arithmetic by conversion to fp32.
#pragma once

#include <cstdint>
#include <string>

#include "core/host_device.h"

namespace trireme {

enum class DType : uint8_t { f32, bf16, f64, i32, i64, u8 };

int64_t dtype_bytes(DType dtype);
std::string dtype_name(DType dtype);  // "f32", "bf16", …

// A bfloat16: the upper half of an fp32, rounded to nearest even. NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  TRIREME_HOST_DEVICE explicit bf16(float value) : bits(round(value)) {}
  TRIREME_HOST_DEVICE explicit operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

  TRIREME_HOST_DEVICE static uint16_t round(float value) {
    const uint32_t x = bit_cast<uint32_t>(value);
    const uint32_t rounded = x + 0x7FFFu + ((x >> 16) & 1u);
    const uint32_t quiet = x | 0x00400000u;  // for NaN: keep the sign, set the quiet bit
    return static_cast<uint16_t>((value != value ? quiet : rounded) >> 16);
  }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};

}  // namespace trireme
