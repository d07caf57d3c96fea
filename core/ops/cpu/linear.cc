#include "core/ops/linear.h"

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

MatrixRef plain(const Tensor& t) { return {t.raw(), t.dtype(), t.dim(1), Transpose::no}; }
MatrixRef transposed(const Tensor& t) { return {t.raw(), t.dtype(), t.dim(1), Transpose::yes}; }

// c (+)= op(a)·op(b) for c [m, n] and `k` terms in each sum.
void multiply(Stream& stream, const MatrixRef& a, const MatrixRef& b, int64_t k, Tensor& c, bool accumulate) {
  gemm(stream.pool(), {.m = c.dim(0),
                       .n = c.dim(1),
                       .k = k,
                       .a = a,
                       .b = b,
                       .c = {c.raw(), c.dtype(), c.dim(1)},
                       .beta = accumulate ? 1.0f : 0.0f});
}

// out[n] = bias (+ base[n]) for rows; `base` may be null or equal out.
template <class Bias, class Base, class Out>
TRIREME_MULTIVERSION void bias_rows(const Bias* bias, const Base* base, Out* out, int64_t rows, int64_t columns) {
  for (int64_t n = 0; n < rows; ++n) {
    Out* y = out + n * columns;
    if (base == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) math::store(y + i, math::load(bias + i));
    } else {
      const Base* b = base + n * columns;
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) math::store(y + i, math::load(b + i) + math::load(bias + i));
    }
  }
}

template <class Bias, class Base, class Out>
void bias_all(ThreadPool& pool, const Bias* bias, const Base* base, Out* out, int64_t rows, int64_t columns) {
  pool.for_ranges(rows, rows_per_piece(columns), [&](int64_t begin, int64_t end) {
    bias_rows(bias, base == nullptr ? base : base + begin * columns, out + begin * columns, end - begin, columns);
  });
}

// Sums of the columns of [rows, columns].
template <class T>
TRIREME_MULTIVERSION void sum_columns(const T* x, int64_t rows, int64_t columns, float* out) {
  for (int64_t i = 0; i < columns; ++i) out[i] = 0;
  for (int64_t n = 0; n < rows; ++n) {
    const T* row = x + n * columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) out[i] += math::load(row + i);
  }
}

void bias_gradient(Stream& stream, const Tensor& dy, Tensor& dbias, bool accumulate) {
  const int64_t rows = dy.dim(0);
  const int64_t columns = dy.dim(1);
  const int64_t block = rows_per_block(rows);
  const int64_t num_blocks = num_row_blocks(rows);
  const Tensor partial = Tensor::empty(stream, {num_blocks, columns}, DType::f32, MemoryTag::workspace);
  float* sums = partial.data<float>();
  with_float_type(dy.dtype(), [&]<class T>(T) {
    const T* d = dy.data<T>();
    stream.pool().for_ranges(rows, block, [&](int64_t begin, int64_t end) {
      sum_columns(d + begin * columns, end - begin, columns, sums + begin / block * columns);
    });
  });
  with_float_type(dbias.dtype(), [&]<class T>(T) {
    add_partial_sums(stream.pool(), sums, num_blocks, columns, columns, accumulate, dbias.data<T>());
  });
}

}  // namespace

// The bias is laid into y first and the product added to it: a y in bf16 is rounded once.
void linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
  if (bias.defined()) {
    with_float_type(bias.dtype(), [&]<class Bias>(Bias) {
      with_float_type(y.dtype(), [&]<class Out>(Out) {
        bias_all<Bias, Out, Out>(stream.pool(), bias.data<Bias>(), nullptr, y.data<Out>(), y.dim(0), y.dim(1));
      });
    });
  }
  multiply(stream, plain(x), transposed(weight), x.dim(1), y, /*accumulate=*/bias.defined());
}

void linear_add_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& residual, Tensor& y) {
  if (!bias.defined()) {
    if (residual.raw() != y.raw()) copy(stream, residual, y);
    multiply(stream, plain(x), transposed(weight), x.dim(1), y, /*accumulate=*/true);
  } else if (y.dtype() == DType::f32) {
    bias_all(stream.pool(), bias.data<float>(), residual.data<float>(), y.data<float>(), y.dim(0), y.dim(1));
    multiply(stream, plain(x), transposed(weight), x.dim(1), y, /*accumulate=*/true);
  } else {
    // residual + bias needs more digits than bf16 has.
    Tensor sum = Tensor::empty(stream, y.shape(), DType::f32, MemoryTag::workspace);
    bias_all(stream.pool(), bias.data<bf16>(), residual.data<bf16>(), sum.data<float>(), y.dim(0), y.dim(1));
    multiply(stream, plain(x), transposed(weight), x.dim(1), sum, /*accumulate=*/true);
    cast(stream, sum, y);
  }
}

void linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, Tensor& dx, bool accumulate) {
  multiply(stream, plain(dy), plain(weight), dy.dim(1), dx, accumulate);
}

void linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, Tensor& dweight, Tensor& dbias,
                            bool accumulate) {
  multiply(stream, transposed(dy), plain(x), dy.dim(0), dweight, accumulate);
  if (dbias.defined()) bias_gradient(stream, dy, dbias, accumulate);
}

void linear_gelu_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, ops::Gelu kind,
                         Tensor& up, Tensor& y, bool& keep_y) {
  linear_forward(stream, x, weight, bias, up);
  cpu::gelu_forward(stream, up, kind, y);
  keep_y = false;
}

void linear_gelu_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& up,
                                ops::Gelu kind, Tensor& dup) {
  linear_backward_input(stream, dy, weight, dup, /*accumulate=*/false);
  cpu::gelu_backward(stream, dup, up, kind, dup);
}

void export_gemm_algorithms(Stream&, std::string& json) { json.clear(); }
void import_gemm_algorithms(Stream&, const std::string&, bool& imported) { imported = true; }

}  // namespace trireme::cpu
