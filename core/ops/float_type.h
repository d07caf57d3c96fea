// The choice of a kernel's element type.
#pragma once

#include "core/error.h"
#include "core/tensor/dtype.h"

namespace trireme {

// Calls f(T{}) with T = float or bf16.
template <class F>
void with_float_type(DType dtype, F&& f) {
  if (dtype == DType::bf16) {
    f(bf16{});
  } else {
    TRIREME_CHECK(dtype == DType::f32);
    f(float{});
  }
}

}  // namespace trireme
