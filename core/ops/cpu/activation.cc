#include "core/ops/activation.h"

#include "core/ops/cpu/bf16_loops.h"
#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

using ops::Gelu;

template <class T>
TRIREME_MULTIVERSION void gelu_tanh_range(const T* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, math::gelu_tanh(math::load(x + i)));
}

template <class T>
TRIREME_MULTIVERSION void gelu_erf_range(const T* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, math::gelu_erf(math::load(x + i)));
}

template <class T>
TRIREME_MULTIVERSION void gelu_tanh_grad_range(const T* dy, const T* x, T* dx, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(dx + i, math::load(dy + i) * math::gelu_tanh_slope(math::load(x + i)));
}

template <class T>
TRIREME_MULTIVERSION void gelu_erf_grad_range(const T* dy, const T* x, T* dx, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(dx + i, math::load(dy + i) * math::gelu_erf_slope(math::load(x + i)));
}

template <class T>
TRIREME_MULTIVERSION void swiglu_rows(const T* gate_up, T* y, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate = gate_up + r * 2 * columns;
    const T* up = gate + columns;
    T* out = y + r * columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) math::store(out + i, math::silu(math::load(gate + i)) * math::load(up + i));
  }
}

template <class T>
TRIREME_MULTIVERSION void swiglu_grad_rows(const T* dy, const T* gate_up, T* dgate_up, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate = gate_up + r * 2 * columns;
    const T* up = gate + columns;
    const T* d = dy + r * columns;
    T* dgate = dgate_up + r * 2 * columns;
    T* dup = dgate + columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) {
      const auto grad = math::swiglu_grad(math::load(d + i), math::load(gate + i), math::load(up + i));
      math::store(dgate + i, grad.gate);
      math::store(dup + i, grad.up);
    }
  }
}

}  // namespace

void gelu_forward(Stream& stream, const Tensor& x, Gelu kind, Tensor& y) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    const T* in = x.data<T>();
    T* out = y.data<T>();
    const auto tanh_range = loop_for(gelu_tanh_range<T>, &Bf16Loops::gelu_tanh_range);
    const auto range = kind == Gelu::tanh ? tanh_range : gelu_erf_range<T>;
    stream.pool().for_ranges(x.numel(), kGrain,
                             [&](int64_t begin, int64_t end) { range(in + begin, out + begin, end - begin); });
  });
}

void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& x, Gelu kind, Tensor& dx) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    const T* d = dy.data<T>();
    const T* in = x.data<T>();
    T* out = dx.data<T>();
    const auto tanh_range = loop_for(gelu_tanh_grad_range<T>, &Bf16Loops::gelu_tanh_grad_range);
    const auto range = kind == Gelu::tanh ? tanh_range : gelu_erf_grad_range<T>;
    stream.pool().for_ranges(
        x.numel(), kGrain, [&](int64_t begin, int64_t end) { range(d + begin, in + begin, out + begin, end - begin); });
  });
}

void swiglu_forward(Stream& stream, const Tensor& gate_up, Tensor& y) {
  const int64_t columns = y.dim(1);
  with_float_type(y.dtype(), [&]<class T>(T) {
    const T* in = gate_up.data<T>();
    T* out = y.data<T>();
    const auto loop = loop_for(swiglu_rows<T>, &Bf16Loops::swiglu_rows);
    stream.pool().for_ranges(y.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      loop(in + begin * 2 * columns, out + begin * columns, end - begin, columns);
    });
  });
}

void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, Tensor& dgate_up) {
  const int64_t columns = dy.dim(1);
  with_float_type(dy.dtype(), [&]<class T>(T) {
    const T* d = dy.data<T>();
    const T* in = gate_up.data<T>();
    T* out = dgate_up.data<T>();
    const auto loop = loop_for(swiglu_grad_rows<T>, &Bf16Loops::swiglu_grad_rows);
    stream.pool().for_ranges(dy.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      const int64_t wide = begin * 2 * columns;
      loop(d + begin * columns, in + wide, out + wide, end - begin, columns);
    });
  });
}

}  // namespace trireme::cpu
