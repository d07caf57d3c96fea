// Linear layers: products with cuBLASLt's epilogues, or with kernels of ours where it has none for a case.
#include "core/ops/linear.h"

#include "core/ops/cuda/gemm.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/linear_kernels.h"

namespace trireme::cuda {

namespace {

GemmOperand plain(const Tensor& t) { return {t, /*transposed=*/false}; }
GemmOperand transposed(const Tensor& t) { return {t, /*transposed=*/true}; }

// y = x·wᵀ + bias (+ residual) without the library's epilogue. residual + bias in bf16 needs more digits than bf16 has.
void add_bias_then_multiply(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                            const Tensor& residual, Tensor& y) {
  const bool wide = y.dtype() == DType::f32;
  Tensor sum = wide ? y : Tensor::empty(stream, y.shape(), DType::f32, MemoryTag::workspace);
  add_bias_rows(stream, residual, bias, sum);
  gemm(stream, plain(x), transposed(weight), sum, /*accumulate=*/true);
  if (!wide) cast(stream, sum, y);
}

void forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual,
             Tensor& y) {
  if (y.numel() == 0) return;
  if (!bias.defined()) {
    return gemm(stream, {.a = plain(x), .b = transposed(weight), .c = y, .addend = residual});
  }
  // The library's bias has the dtype of y.
  if (bias.dtype() == y.dtype() && x.dim(1) > 0 &&
      try_gemm(stream, {.a = plain(x),
                        .b = transposed(weight),
                        .c = y,
                        .addend = residual,
                        .epilogue = Epilogue::bias,
                        .vector = bias})) {
    return;
  }
  add_bias_then_multiply(stream, x, weight, bias, residual, y);
}

// The library has no product of f32 matrices into bf16.
void backward_weight_through_f32(Stream& stream, const Tensor& dy, const Tensor& x, Tensor& dweight, Tensor& dbias,
                                 bool accumulate) {
  const auto wide = [&](const Tensor& t) {
    return t.defined() ? Tensor::empty(stream, t.shape(), DType::f32, MemoryTag::workspace) : Tensor{};
  };
  Tensor weight_sums = wide(dweight);
  Tensor bias_sums = wide(dbias);
  cuda::linear_backward_weight(stream, dy, x, weight_sums, bias_sums, /*accumulate=*/false);
  cuda::accumulate(stream, weight_sums, dweight, accumulate);
  if (dbias.defined()) cuda::accumulate(stream, bias_sums, dbias, accumulate);
}

// In fp32 the library's GELU is not exact to the last digits, and leading dimensions must be multiples of 8.
bool gelu_can_be_fused(const Tensor& up, ops::Gelu kind) {
  return kind == ops::Gelu::tanh && up.dtype() == DType::bf16 && up.dim(1) % 8 == 0;
}

}  // namespace

void linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
  forward(stream, x, weight, bias, /*residual=*/{}, y);
}

void linear_add_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& residual, Tensor& y) {
  forward(stream, x, weight, bias, residual, y);
}

void linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, Tensor& dx, bool accumulate) {
  gemm(stream, plain(dy), plain(weight), dx, accumulate);
}

void linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, Tensor& dweight, Tensor& dbias,
                            bool accumulate) {
  if (dy.dtype() == DType::f32 && dweight.dtype() == DType::bf16) {
    return backward_weight_through_f32(stream, dy, x, dweight, dbias, accumulate);
  }
  if (!dbias.defined() || dy.numel() == 0) {
    gemm(stream, transposed(dy), plain(x), dweight, accumulate);
    if (dbias.defined() && !accumulate) fill(stream, dbias, 0);
    return;
  }
  // The library writes the sums of the rows of dyᵀ, in the dtype of dw; it does not add them to what is there, so that in
  // bf16 they would be rounded twice.
  const bool can_be_fused = !accumulate || dbias.dtype() == DType::f32;
  Tensor sums = accumulate ? Tensor::empty(stream, dbias.shape(), DType::f32, MemoryTag::workspace) : dbias;
  const GemmCall product{.a = transposed(dy), .b = plain(x), .c = dweight, .addend = accumulate ? dweight : Tensor{}};
  const GemmCall fused{.a = product.a,
                       .b = product.b,
                       .c = dweight,
                       .addend = product.addend,
                       .epilogue = Epilogue::row_sums,
                       .vector = sums};
  if (can_be_fused &&
      try_fused_gemm(stream, fused, product, [&] { column_sums(stream, dy, /*accumulate=*/false, sums); })) {
    if (accumulate) cuda::accumulate(stream, sums, dbias, /*accumulate=*/true);
    return;
  }
  gemm(stream, transposed(dy), plain(x), dweight, accumulate);
  column_sums(stream, dy, accumulate, dbias);
}

void linear_gelu_forward(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, ops::Gelu kind,
                         Tensor& up, Tensor& y, bool& keep_y) {
  const GemmCall fused{.a = plain(x),
                       .b = transposed(weight),
                       .c = y,
                       .epilogue = bias.defined() ? Epilogue::gelu_bias : Epilogue::gelu,
                       .vector = bias,
                       .aux = up};
  const GemmCall product{.a = fused.a,
                         .b = fused.b,
                         .c = up,
                         .epilogue = bias.defined() ? Epilogue::bias : Epilogue::none,
                         .vector = bias};
  keep_y = gelu_can_be_fused(up, kind) &&
           try_fused_gemm(stream, fused, product, [&] { cuda::gelu_forward(stream, up, kind, y); });
  if (keep_y) return;
  linear_forward(stream, x, weight, bias, up);
  cuda::gelu_forward(stream, up, kind, y);
}

void linear_gelu_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& up,
                                ops::Gelu kind, Tensor& dup) {
  const GemmCall product{.a = plain(dy), .b = plain(weight), .c = dup};
  const GemmCall fused{.a = product.a, .b = product.b, .c = dup, .epilogue = Epilogue::gelu_gradient, .aux = up};
  if (gelu_can_be_fused(up, kind) &&
      try_fused_gemm(stream, fused, product, [&] { cuda::gelu_backward(stream, dup, up, kind, dup); })) {
    return;
  }
  linear_backward_input(stream, dy, weight, dup, /*accumulate=*/false);
  cuda::gelu_backward(stream, dup, up, kind, dup);
}

}  // namespace trireme::cuda
