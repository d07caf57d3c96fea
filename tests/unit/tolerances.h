// How far an op may be from its fp64 reference: one table of device × dtype × kind of arithmetic.
#pragma once

#include <stdexcept>

#include "core/device/device.h"
#include "core/tensor/dtype.h"

namespace trireme::testing {

enum class OpKind {
  exact,        // moves numbers
  elementwise,  // a few operations on each number
  reduction,    // sums over a row or a column, then elementwise
  matmul,       // long dot products
};

// Of |got − want|, relative to |want| + root mean square of all of `want`. The dtype is that of the result. A bf16 result
// is off by its rounding (2⁻⁹) and, where a wrong last bit inside tips it over, by a whole unit; beside that the GPU's
// own exponentials, 2⁻²⁰ or so, are lost.
struct Tolerances {
  DeviceType device;
  DType dtype;
  double elementwise;
  double reduction;
  double matmul;
};
inline constexpr Tolerances kTolerances[] = {
    {DeviceType::cpu, DType::f32, 6e-7, 5e-6, 5e-6},    {DeviceType::cpu, DType::bf16, 4e-3, 4e-3, 4e-3},
    {DeviceType::cpu, DType::f64, 1e-12, 1e-12, 1e-12}, {DeviceType::cuda, DType::f32, 6e-7, 5e-6, 5e-6},
    {DeviceType::cuda, DType::bf16, 4e-3, 4e-3, 4e-3},  {DeviceType::cuda, DType::f64, 1e-12, 1e-12, 1e-12},
};

inline double tolerance(DeviceType device, DType dtype, OpKind kind) {
  if (kind == OpKind::exact) return 0;
  for (const Tolerances& row : kTolerances) {
    if (row.device != device || row.dtype != dtype) continue;
    switch (kind) {
      case OpKind::elementwise: return row.elementwise;
      case OpKind::reduction: return row.reduction;
      default: return row.matmul;
    }
  }
  throw std::logic_error("no tolerance for this device and dtype");
}

// Between a derivative by central differences of an op's own fp32 forward pass, along a direction, and its backward
// pass.
inline constexpr double kForwardDifferenceTolerance = 2e-3;

}  // namespace trireme::testing
