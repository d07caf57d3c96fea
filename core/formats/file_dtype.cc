#include "core/formats/file_dtype.h"

#include <bit>

namespace trireme {

namespace {

// In the order of the enumeration.
struct DTypeRow {
  FileDType dtype;
  const char* name;
  int64_t bytes;
};
constexpr DTypeRow kDTypes[] = {
    {FileDType::f32, "F32", 4}, {FileDType::bf16, "BF16", 2},       {FileDType::f16, "F16", 2},
    {FileDType::f64, "F64", 8}, {FileDType::i32, "I32", 4},         {FileDType::i64, "I64", 8},
    {FileDType::u8, "U8", 1},   {FileDType::boolean, "BOOL", 1},    {FileDType::i8, "I8", 1},
    {FileDType::i16, "I16", 2}, {FileDType::u16, "U16", 2},         {FileDType::u32, "U32", 4},
    {FileDType::u64, "U64", 8}, {FileDType::f8_e4m3, "F8_E4M3", 1}, {FileDType::f8_e5m2, "F8_E5M2", 1},
};

}  // namespace

int64_t file_dtype_bytes(FileDType dtype) { return kDTypes[static_cast<size_t>(dtype)].bytes; }
std::string file_dtype_name(FileDType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

bool parse_file_dtype(std::string_view name, FileDType& dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (name != row.name) continue;
    dtype = row.dtype;
    return true;
  }
  return false;
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1Fu;
  const uint32_t mantissa = bits & 0x3FFu;
  if (exponent == 0) {  // zero and subnormals: mantissa · 2^-24
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + (127u - 15u);
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

}  // namespace trireme
