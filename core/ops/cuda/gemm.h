// Matrix products on a GPU through cuBLASLt: c = epilogue(op(a)·op(b) + addend), matrices row-major and contiguous.
//
// a and b share a dtype, f32 or bf16; c is of that dtype or f32. Sums are fp32 (no TF32), a bf16 c is rounded once, after
// the epilogue. The first product of a kind (shape, dtypes, epilogue, alignment) on a stream times up to 8 candidates
// and waits for them; later ones queue one call. Only algorithms whose sums are cut and added in a fixed order are
// candidates. core/ops/gemm_algorithms.h records and restores the choices.
// Errors: MachineError with cuBLASLt's status.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/tensor/tensor.h"

namespace trireme::cuda {

enum class Epilogue : uint8_t {
  none,
  bias,           // c + vector, vector [n] of c's dtype
  gelu,           // aux = c, c = gelu(c), gelu with tanh, of the sum before it is rounded
  gelu_bias,      // aux = c + vector, c = gelu(c + vector)
  gelu_gradient,  // c · gelu'(aux)
  row_sums,       // vector [m] = sums of the rows of op(a): the bias gradient when op(a) = dyᵀ. Of c's dtype.
};

struct GemmOperand {
  const Tensor& tensor;  // [rows, columns]
  bool transposed = false;
};

struct GemmCall {
  GemmOperand a;       // op(a) [m, k]
  GemmOperand b;       // op(b) [k, n]
  Tensor& c;           // [m, n]; overlaps none of the others
  Tensor addend = {};  // [m, n] of c's dtype, may be c; or none
  Epilogue epilogue = Epilogue::none;
  Tensor vector = {};
  Tensor aux = {};  // [m, n] of c's dtype
  // For sizes that hardly come back (rows of an expert): the library's first guess, without timing or record. The same for
  // all products of a kind, on any stream.
  bool untimed = false;
};

// Queues the product, unless the library has no algorithm for it: then nothing is queued and the answer is false. It is
// the same for all products of a kind. m and n may be 0, k not.
bool try_gemm(Stream& stream, const GemmCall& call);

// The same for a product with an epilogue that has a twin: `plain`, a product with less of an epilogue, and `rest`, which
// queues what is missing then. Where both are possible and the product is large, the faster one is chosen once, by timing;
// false: the caller should queue `plain` and `rest`. Timing runs `rest` on its real operands: what it writes must be
// overwritten by either way.
bool try_fused_gemm(Stream& stream, const GemmCall& fused, const GemmCall& plain, const std::function<void()>& rest);

// Without an epilogue. Any of m, n and k may be 0. With `accumulate` c is the addend.
void gemm(Stream& stream, const GemmCall& call);
void gemm(Stream& stream, const GemmOperand& a, const GemmOperand& b, Tensor& c, bool accumulate);
void gemm_untimed(Stream& stream, const GemmOperand& a, const GemmOperand& b, Tensor& c, bool accumulate);

}  // namespace trireme::cuda
