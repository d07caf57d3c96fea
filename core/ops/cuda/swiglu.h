// What the kernels of SwiGLU share, with weights of rows and without: gate_up [rows, 2F] has the gates of a row, then what
// they let through. Include from .cu files only.
#pragma once

#include "core/ops/cuda/vector.h"

namespace trireme::cuda {

template <int kN>
struct GateUp {
  Floats<kN> gate;
  Floats<kN> up;
};

// Elements [column, column + kN) of both halves of a row; `columns` is F.
template <int kN, class T>
__device__ __forceinline__ GateUp<kN> load_gate_up(const T* gate_up, int64_t row, int64_t column, int64_t columns) {
  const T* gate = gate_up + row * 2 * columns + column;
  return {load<kN>(gate), load<kN>(gate + columns)};
}

template <int kN, class T>
__device__ __forceinline__ void store_gate_up(T* gate_up, int64_t row, int64_t column, int64_t columns,
                                              const GateUp<kN>& values) {
  T* gate = gate_up + row * 2 * columns + column;
  store<kN>(gate, values.gate);
  store<kN>(gate + columns, values.up);
}

}  // namespace trireme::cuda
