#include "core/ops/cuda/linear_kernels.h"

#include "core/device/cuda/launch.h"
#include "core/ops/cuda/vector.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

constexpr int kColumnLanes = 32;
constexpr int kRowLanes = 8;
constexpr int64_t kRowsPerBlock = 256;

// One thread for each element.
template <class Base, class Bias>
__global__ void add_bias_rows_kernel(const Base* base, const Bias* bias, float* out, int64_t count, int64_t columns) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float before = base == nullptr ? 0.0f : math::load(base + i);
  out[i] = before + math::load(bias + i % columns);
}

// out[block y][columns] = sums over rows [kRowsPerBlock·y, …) (`rows_per_block` of them). A thread sums every 8th row of
// kWidth columns; the 8 partial sums are then added in order.
template <class T, class Out, int kWidth>
__global__ void column_sums_kernel(const T* x, int64_t rows, int64_t columns, int64_t rows_per_block, bool accumulate,
                                   Out* out) {
  __shared__ float partial[kRowLanes][kColumnLanes * kWidth];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kColumnLanes + threadIdx.x) * kWidth;
  const int64_t begin = blockIdx.y * rows_per_block;
  const int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
  float sums[kWidth] = {};
  if (column < columns) {
    for (int64_t row = begin + threadIdx.y; row < end; row += kRowLanes) {
      const Floats<kWidth> values = load<kWidth>(x + row * columns + column);
      for (int i = 0; i < kWidth; ++i) sums[i] += values.x[i];
    }
  }
  for (int i = 0; i < kWidth; ++i) partial[threadIdx.y][threadIdx.x * kWidth + i] = sums[i];
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.y) * kColumnLanes + static_cast<int>(threadIdx.x);
  const int64_t target = static_cast<int64_t>(blockIdx.x) * kColumnLanes * kWidth + lane;
  if (lane >= kColumnLanes * kWidth || target >= columns) return;
  float sum = 0;
  for (int i = 0; i < kRowLanes; ++i) sum += partial[i][lane];
  Out* to = out + blockIdx.y * columns + target;
  math::store(to, accumulate ? math::load(to) + sum : sum);
}

template <int kWidth, class T, class Out>
void launch_column_sums(Stream& stream, const T* x, int64_t rows, int64_t columns, int64_t rows_per_block,
                        bool accumulate, Out* out) {
  static_assert(kWidth <= kRowLanes, "a thread for each column in the last sum");
  const dim3 grid(grid_size(ceil_div(columns, kColumnLanes * kWidth)), grid_size(ceil_div(rows, rows_per_block)));
  launch(stream, grid, dim3(kColumnLanes, kRowLanes), 0, column_sums_kernel<T, Out, kWidth>, x, rows, columns,
         rows_per_block, accumulate, out);
}

template <class T, class Out>
void sum_columns_of(Stream& stream, const T* x, int64_t rows, int64_t columns, int64_t rows_per_block, bool accumulate,
                    Out* out) {
  if (columns % kVector<T> == 0 && is_aligned<kVector<T>>(x)) {
    launch_column_sums<kVector<T>>(stream, x, rows, columns, rows_per_block, accumulate, out);
  } else {
    launch_column_sums<1>(stream, x, rows, columns, rows_per_block, accumulate, out);
  }
}

template <class Base, class Bias>
void launch_bias_rows(Stream& stream, const Tensor& base, const Tensor& bias, Tensor& out) {
  const int64_t count = out.numel();
  const Base* from = base.defined() ? base.data<Base>() : nullptr;
  launch(stream, grid_size(ceil_div(count, 256)), 256, 0, add_bias_rows_kernel<Base, Bias>, from, bias.data<Bias>(),
         out.data<float>(), count, out.dim(1));
}

}  // namespace

void add_bias_rows(Stream& stream, const Tensor& base, const Tensor& bias, Tensor& out) {
  const bool wide_base = !base.defined() || base.dtype() == DType::f32;
  const bool wide_bias = bias.dtype() == DType::f32;
  if (wide_base && wide_bias) return launch_bias_rows<float, float>(stream, base, bias, out);
  if (wide_base) return launch_bias_rows<float, bf16>(stream, base, bias, out);
  TRIREME_CHECK(!wide_bias, "an f32 bias beside bf16");
  launch_bias_rows<bf16, bf16>(stream, base, bias, out);
}

void column_sums(Stream& stream, const Tensor& x, bool accumulate, Tensor& out) {
  const int64_t rows = x.dim(0);
  const int64_t columns = x.dim(1);
  const int64_t num_blocks = ceil_div(rows, kRowsPerBlock);
  with_float_type(x.dtype(), [&]<class T>(T) {
    with_float_type(out.dtype(), [&]<class Out>(Out) {
      if (num_blocks == 1) {
        return sum_columns_of(stream, x.data<T>(), rows, columns, kRowsPerBlock, accumulate, out.data<Out>());
      }
      const Tensor partial = Tensor::empty(stream, {num_blocks, columns}, DType::f32, MemoryTag::workspace);
      float* sums = partial.data<float>();
      sum_columns_of(stream, x.data<T>(), rows, columns, kRowsPerBlock, /*accumulate=*/false, sums);
      sum_columns_of(stream, sums, num_blocks, columns, num_blocks, accumulate, out.data<Out>());
    });
  });
}

}  // namespace trireme::cuda
