// Matrix multiplication on the CPU: C = alpha·op(A)·op(B) + beta·C, matrices row-major with a leading dimension.
//
// `gemm` cuts C into rectangles that the threads of a pool claim; each rectangle is one call of a library that runs
// on the calling thread alone (gemm_backend.h says which library, or kernel of ours). `gemm_serial` is one such call:
// it may be used from inside a task of the pool, from any thread, and costs about a microsecond besides the
// multiplication.
//
// Element types: A and B both f32 or both bf16; C f32 or bf16, whatever A and B are. Sums inside are fp32; a bf16 C
// is rounded once, at the end. With beta 0 old values of C are not read (they may be NaN).
// Repeatability: the same arguments on the same CPU and a pool of the same size give the same bits, whatever order
// threads run in. Another size of pool cuts elsewhere and may round differently.
// Thread safety: calls that write different memory may run at the same time; each `gemm` needs a pool of its own
// (as ThreadPool::run does). Called inside a task of the pool, `gemm` runs its rectangles one after the other.
// Errors: wrong types or leading dimensions are bugs (BugError); a library that fails is a MachineError.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor/dtype.h"

namespace trireme {

class ThreadPool;

namespace cpu {

enum class Transpose : uint8_t { no, yes };

// A matrix that is read. op(X) is X itself or its transpose; `ld` is the distance in elements between two rows of
// what lies in memory, that is of X before the transposition.
struct MatrixRef {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t ld = 0;
  Transpose transpose = Transpose::no;
};

// The matrix that is written.
struct MatrixOut {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t ld = 0;
};

struct GemmArgs {
  int64_t m = 0;     // rows of C and of op(A); any of m, n and k may be 0
  int64_t n = 0;     // columns of C and of op(B)
  int64_t k = 0;     // columns of op(A), rows of op(B)
  MatrixRef a = {};  // op(A) [m, k]: a.data [m, k], or [k, m] when transposed
  MatrixRef b = {};  // op(B) [k, n]: b.data [k, n], or [n, k] when transposed
  MatrixOut c = {};  // [m, n]; overlaps neither A nor B
  float alpha = 1.0f;
  float beta = 0.0f;  // 0: C is overwritten; 1: the product is added to it
};

void gemm(ThreadPool& pool, const GemmArgs& args);
void gemm_serial(const GemmArgs& args);

// Several products at once, whose C don't overlap: the threads claim rectangles of all of them, so that many small
// products keep the pool as busy as a large one. How they are cut depends on all their shapes.
void gemm_all(ThreadPool& pool, std::span<const GemmArgs> products);

// How `gemm` cuts C [m, n]: rectangles of `rows` x `cols` elements, those at the lower and right edge smaller.
// A function of the shape and the number of threads alone.
struct GemmCut {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t num_row_pieces = 1;
  int64_t num_col_pieces = 1;
};
GemmCut cut_gemm(int64_t m, int64_t n, int64_t k, int num_threads);

}  // namespace cpu
}  // namespace trireme
