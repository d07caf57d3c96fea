// How far an op may be from its fp64 reference: one table of dtype × kind of arithmetic, for every device.
#pragma once

#include "core/tensor/dtype.h"

namespace trireme::testing {

enum class OpKind {
  exact,        // moves numbers
  elementwise,  // a few operations on each number
  reduction,    // sums over a row or a column, then elementwise
  matmul,       // long dot products
};

// Of |got − want|, relative to |want| + root mean square of all of `want`. `dtype` is that of the result; a bf16 result
// is off by its rounding (2⁻⁹) and, where a wrong last bit inside tips it over, by a whole unit.
inline double tolerance(DType dtype, OpKind kind) {
  if (kind == OpKind::exact) return 0;
  switch (dtype) {
    case DType::f32:
      switch (kind) {
        case OpKind::elementwise: return 6e-7;
        case OpKind::reduction: return 5e-6;
        default: return 5e-6;
      }
    case DType::bf16: return 4e-3;
    case DType::f64: return 1e-12;
    default: return 0;
  }
}

// Between a derivative by central differences of an op's own fp32 forward pass, along a direction, and its backward
// pass.
inline constexpr double kForwardDifferenceTolerance = 2e-3;

}  // namespace trireme::testing
