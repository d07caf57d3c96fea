#include "core/ops/activation.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/fast_math.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/swiglu.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

using ops::Gelu;

template <class T, bool kTanh>
struct GeluForward {
  const T* x;
  T* y;

  template <int kN>
  __device__ void run(int64_t i) const {
    Floats<kN> value = load<kN>(x + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      value.x[j] = kTanh ? math::gelu_tanh<UnitOf<T>>(value.x[j]) : math::gelu_erf<UnitOf<T>>(value.x[j]);
    }
    store<kN>(y + i, value);
  }
};

template <class T, bool kTanh>
struct GeluBackward {
  const T* dy;
  const T* x;
  T* dx;

  template <int kN>
  __device__ void run(int64_t i) const {
    const Floats<kN> value = load<kN>(x + i);
    Floats<kN> d = load<kN>(dy + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      d.x[j] *= kTanh ? math::gelu_tanh_slope<UnitOf<T>>(value.x[j]) : math::gelu_erf_slope<UnitOf<T>>(value.x[j]);
    }
    store<kN>(dx + i, d);
  }
};

template <class T>
struct SwigluForward {
  const T* gate_up;
  T* y;
  int64_t columns;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    GateUp<kN> in = load_gate_up<kN>(gate_up, row, column, columns);
#pragma unroll
    for (int j = 0; j < kN; ++j) in.gate.x[j] = math::silu<UnitOf<T>>(in.gate.x[j]) * in.up.x[j];
    store<kN>(y + row * columns + column, in.gate);
  }
};

template <class T>
struct SwigluBackward {
  const T* dy;
  const T* gate_up;
  T* dgate_up;
  int64_t columns;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const Floats<kN> d = load<kN>(dy + row * columns + column);
    GateUp<kN> in = load_gate_up<kN>(gate_up, row, column, columns);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const math::SwigluGrad<float> grad = math::swiglu_grad<UnitOf<T>>(d.x[j], in.gate.x[j], in.up.x[j]);
      in.gate.x[j] = grad.gate;
      in.up.x[j] = grad.up;
    }
    store_gate_up(dgate_up, row, column, columns, in);
  }
};

}  // namespace

void gelu_forward(Stream& stream, const Tensor& x, Gelu kind, Tensor& y) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const T* in = x.data<T>();
    T* out = y.data<T>();
    const bool aligned = is_aligned<kWidth>(in) && is_aligned<kWidth>(out);
    if (kind == Gelu::tanh) {
      for_elements<kWidth>(stream, x.numel(), aligned, GeluForward<T, true>{in, out});
    } else {
      for_elements<kWidth>(stream, x.numel(), aligned, GeluForward<T, false>{in, out});
    }
  });
}

void gelu_backward(Stream& stream, const Tensor& dy, const Tensor& x, Gelu kind, Tensor& dx) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const T* d = dy.data<T>();
    const T* in = x.data<T>();
    T* out = dx.data<T>();
    const bool aligned = is_aligned<kWidth>(d) && is_aligned<kWidth>(in) && is_aligned<kWidth>(out);
    if (kind == Gelu::tanh) {
      for_elements<kWidth>(stream, x.numel(), aligned, GeluBackward<T, true>{d, in, out});
    } else {
      for_elements<kWidth>(stream, x.numel(), aligned, GeluBackward<T, false>{d, in, out});
    }
  });
}

void swiglu_forward(Stream& stream, const Tensor& gate_up, Tensor& y) {
  with_float_type(y.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const SwigluForward<T> op{gate_up.data<T>(), y.data<T>(), y.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.gate_up) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, y.dim(0), op.columns, aligned, op);
  });
}

void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, Tensor& dgate_up) {
  with_float_type(dy.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const SwigluBackward<T> op{dy.data<T>(), gate_up.data<T>(), dgate_up.data<T>(), dy.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.dy) && is_aligned<kWidth>(op.gate_up) &&
                         is_aligned<kWidth>(op.dgate_up);
    for_rows<kWidth>(stream, dy.dim(0), op.columns, aligned, op);
  });
}

}  // namespace trireme::cuda
