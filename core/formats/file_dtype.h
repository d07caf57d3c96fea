// Element types of tensors on disk, by safetensors' names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trireme {

// Those from `boolean` on can be listed and copied as bytes, not converted.
enum class FileDType : uint8_t {
  f32,
  bf16,
  f16,
  f64,
  i32,
  i64,
  u8,
  boolean,
  i8,
  i16,
  u16,
  u32,
  u64,
  f8_e4m3,
  f8_e5m2,
};

int64_t file_dtype_bytes(FileDType dtype);
std::string file_dtype_name(FileDType dtype);  // "F32", "BF16", …
// False when no type has this name.
bool parse_file_dtype(std::string_view name, FileDType& dtype);

// The value of an IEEE half-precision number.
float half_to_float(uint16_t bits);

}  // namespace trireme
