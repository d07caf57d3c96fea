// Several matrix products in one call of cuBLAS: c = op(a)·op(b), or c += that, for each of a list of products that share
// dtype, transpositions and leading dimensions. Row-major; sums are fp32 (no TF32), a bf16 c is rounded once.
//
// The library chooses by the sizes alone, nothing is timed, and its workspace belongs to the stream: the same call gives
// the same bits, run after run.
// Errors: MachineError with cuBLAS's status.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/tensor.h"

namespace trireme::cuda {

struct GroupedGemm {
  struct Product {
    const void* a = nullptr;      // op(a) [m, k]
    const void* b = nullptr;      // op(b) [k, n]
    void* c = nullptr;            // [m, n]; overlaps nothing
    int64_t m = 0, n = 0, k = 0;  // all >= 1
  };

  DType dtype = DType::f32;  // of a, b and c: f32 or bf16
  bool a_transposed = false;
  bool b_transposed = false;
  int64_t a_ld = 0, b_ld = 0, c_ld = 0;  // elements from one row in memory to the next
  bool accumulate = false;
  std::vector<Product> products = {};
};

// Queues the products, unless cuBLAS is not installed or refuses them, rows or addresses are no multiples of 16 bytes, or
// the stream is being recorded: then nothing is queued and the answer is false.
bool try_grouped_gemm(Stream& stream, const GroupedGemm& call);

}  // namespace trireme::cuda
