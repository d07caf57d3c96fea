#include "core/ops/expert_rows.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/fast_math.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/cuda/swiglu.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

constexpr int kWarpsPerBlock = 8;  // of kernels in which a warp works on a row
constexpr int kUnroll = 4;         // vectors that a thread has under way

template <class T>
struct Gather {
  const T* x;
  const int32_t* order;
  Divider slots;
  T* y;
  int64_t columns;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const int64_t from = slots.quotient(static_cast<uint32_t>(order[row]));
    store_raw(y + row * columns + column, load_raw<kN>(x + from * columns + column));
  }
};

template <class T>
struct Sum {
  const T* rows;
  const int32_t* position;
  T* y;
  int64_t columns;
  int64_t slots;
  bool accumulate;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    T* out = y + row * columns + column;
    const int32_t* mine = position + row * slots;
    Floats<kN> sum{};
    if (accumulate) sum = load<kN>(out);
    for (int64_t first = 0; first < slots; first += kUnroll) {
      Raw<T, kN> raw[kUnroll] = {};
      bool found[kUnroll] = {};
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (first + u >= slots) break;
        const int64_t from = mine[first + u];
        found[u] = from >= 0;
        if (found[u]) raw[u] = load_raw<kN>(rows + from * columns + column);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (!found[u]) continue;
        const Floats<kN> x = widen(raw[u]);
#pragma unroll
        for (int j = 0; j < kN; ++j) sum.x[j] += x.x[j];
      }
    }
    store<kN>(out, sum);
  }
};

struct Shift {
  const int32_t* position;
  const int32_t* experts;
  const int32_t* shifts;
  int32_t* out;
  int64_t copies;
  int64_t num_experts;

  template <int kN>
  __device__ void run(int64_t pair, int64_t copy) const {
    const int32_t place = position[pair];
    out[pair * copies + copy] = place < 0 ? -1 : place + shifts[copy * num_experts + experts[pair]];
  }
};

template <class T>
struct AddScaled {
  const T* x;
  const float* factor;
  T* y;
  int64_t columns;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const float f = factor[row];
    const Floats<kN> in = load<kN>(x + row * columns + column);
    Floats<kN> sum = load<kN>(y + row * columns + column);
#pragma unroll
    for (int j = 0; j < kN; ++j) sum.x[j] = std::fma(f, in.x[j], sum.x[j]);
    store<kN>(y + row * columns + column, sum);
  }
};

template <class T>
struct SwigluForward {
  const T* gate_up;
  const float* weights;
  T* y;
  int64_t columns;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const float weight = weights[row];
    GateUp<kN> in = load_gate_up<kN>(gate_up, row, column, columns);
#pragma unroll
    for (int j = 0; j < kN; ++j) in.gate.x[j] = weight * (math::silu<UnitOf<T>>(in.gate.x[j]) * in.up.x[j]);
    store<kN>(y + row * columns + column, in.gate);
  }
};

// The row of this thread's warp, or `rows` and more.
__device__ __forceinline__ int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarp)
    dots_of_rows(const T* a, const T* b, float* dots, int64_t rows, int64_t columns) {
  const int64_t row = row_of_warp();
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T* x = a + row * columns;
  const T* y = b + row * columns;
  float sum = 0;
  for (int64_t i = lane * kWidth; i < columns; i += kWarp * kWidth) {
    const Floats<kWidth> p = load<kWidth>(x + i);
    const Floats<kWidth> q = load<kWidth>(y + i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum = std::fma(p.x[j], q.x[j], sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) dots[row] = sum;
}

// One warp to a row. Each thread reads of gate_up what it then overwrites where dgate_up is the same memory.
template <class T, int kWidth>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarp)
    swiglu_backward_rows(const T* dy, const T* gate_up, const float* weights, T* dgate_up, float* dweights,
                         int64_t rows, int64_t columns) {
  const int64_t row = row_of_warp();
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float weight = weights[row];
  float sum = 0;
  for (int64_t i = lane * kWidth; i < columns; i += kWarp * kWidth) {
    const Floats<kWidth> d = load<kWidth>(dy + row * columns + i);
    GateUp<kWidth> in = load_gate_up<kWidth>(gate_up, row, i, columns);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const math::SwigluGrad<float> grad = math::swiglu_grad<UnitOf<T>>(d.x[j], in.gate.x[j], in.up.x[j]);
      sum = std::fma(grad.up, in.up.x[j], sum);
      in.gate.x[j] = weight * grad.gate;
      in.up.x[j] = weight * grad.up;
    }
    store_gate_up(dgate_up, row, i, columns, in);
  }
  sum = warp_sum(sum);
  if (lane == 0) dweights[row] = sum;
}

unsigned blocks_of_rows(int64_t rows) { return grid_size(ceil_div(rows, kWarpsPerBlock)); }

}  // namespace

void gather_rows(Stream& stream, const Tensor& x, const Tensor& order, int64_t slots, Tensor& y) {
  TRIREME_CHECK(slots <= INT32_MAX, "too many slots");
  with_float_type(x.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const Gather<T> op{x.data<T>(), order.data<int32_t>(), Divider(static_cast<uint32_t>(slots)), y.data<T>(),
                       x.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.x) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, y.dim(0), op.columns, aligned, op);
  });
}

void sum_rows(Stream& stream, const Tensor& rows, const Tensor& position, Tensor& y, bool accumulate) {
  with_float_type(y.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const Sum<T> op{.rows = rows.data<T>(),
                    .position = position.data<int32_t>(),
                    .y = y.data<T>(),
                    .columns = y.dim(1),
                    .slots = position.dim(1),
                    .accumulate = accumulate};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.rows) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, y.dim(0), op.columns, aligned, op);
  });
}

void shift_positions(Stream& stream, const Tensor& position, const Tensor& experts, const Tensor& shifts, Tensor& out) {
  const Shift op{.position = position.data<int32_t>(),
                 .experts = experts.data<int32_t>(),
                 .shifts = shifts.data<int32_t>(),
                 .out = out.data<int32_t>(),
                 .copies = shifts.dim(0),
                 .num_experts = shifts.dim(1)};
  for_rows<1>(stream, position.numel(), op.copies, /*aligned=*/true, op);
}

void add_scaled_rows(Stream& stream, const Tensor& x, const Tensor& factor, Tensor& y) {
  with_float_type(x.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const AddScaled<T> op{x.data<T>(), factor.data<float>(), y.data<T>(), x.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.x) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, x.dim(0), op.columns, aligned, op);
  });
}

void row_dots(Stream& stream, const Tensor& a, const Tensor& b, Tensor& dots) {
  with_float_type(a.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const T* x = a.data<T>();
    const T* y = b.data<T>();
    const bool aligned = a.dim(1) % kWidth == 0 && is_aligned<kWidth>(x) && is_aligned<kWidth>(y);
    launch(stream, blocks_of_rows(a.dim(0)), kWarpsPerBlock * kWarp, 0,
           aligned ? dots_of_rows<T, kWidth> : dots_of_rows<T, 1>, x, y, dots.data<float>(), a.dim(0), a.dim(1));
  });
}

void weighted_swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& weights, Tensor& y) {
  with_float_type(y.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const SwigluForward<T> op{gate_up.data<T>(), weights.data<float>(), y.data<T>(), y.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.gate_up) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, y.dim(0), op.columns, aligned, op);
  });
}

void weighted_swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& weights,
                              Tensor& dgate_up, Tensor& dweights) {
  with_float_type(dy.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const T* d = dy.data<T>();
    const T* in = gate_up.data<T>();
    T* out = dgate_up.data<T>();
    const bool aligned =
        dy.dim(1) % kWidth == 0 && is_aligned<kWidth>(d) && is_aligned<kWidth>(in) && is_aligned<kWidth>(out);
    launch(stream, blocks_of_rows(dy.dim(0)), kWarpsPerBlock * kWarp, 0,
           aligned ? swiglu_backward_rows<T, kWidth> : swiglu_backward_rows<T, 1>, d, in, weights.data<float>(), out,
           dweights.data<float>(), dy.dim(0), dy.dim(1));
  });
}

}  // namespace trireme::cuda
