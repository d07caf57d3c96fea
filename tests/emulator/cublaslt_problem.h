// What the emulated cuBLASLt keeps behind its opaque descriptors, and the checks that the real library makes.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

// A stored matrix; column-major unless `order` says otherwise.
struct MatrixLayout {
  cudaDataType type = CUDA_R_32F;
  int32_t order = CUBLASLT_ORDER_COL;
  uint64_t rows = 0;
  uint64_t cols = 0;
  int64_t ld = 0;
  int32_t batch_count = 1;
  int64_t batch_offset = 0;

  int64_t element_bytes() const { return type == CUDA_R_16BF ? 2 : 4; }
  // Place of element (row, col).
  int64_t at(int64_t row, int64_t col) const { return order == CUBLASLT_ORDER_COL ? row + col * ld : row * ld + col; }
};

struct MatmulDesc {
  int32_t compute_type = CUBLAS_COMPUTE_32F;
  int32_t scale_type = CUDA_R_32F;
  int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
  int32_t transpose_a = CUBLAS_OP_N;
  int32_t transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  int32_t bias_type = -1;
  void* aux = nullptr;
  int64_t aux_ld = 0;
  int32_t aux_type = -1;

  bool reads_bias() const { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
  bool writes_bias() const { return (epilogue & (16 | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB)) != 0; }
  bool uses_aux() const { return (epilogue & 128) != 0; }
};

struct MatmulPreference {
  uint64_t max_workspace_bytes = 0;
  uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

// One product D = epilogue(alpha · op(A) · op(B) + beta · C); op(A) is m × k, op(B) k × n.
struct Matmul {
  MatmulDesc desc;
  MatrixLayout a, b, c, d;
  int64_t m = 0, n = 0, k = 0;
};

// A refusal, with the reason in words; the library prints it when CUBLASLT_LOG_LEVEL is set.
struct Verdict {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  std::string reason;

  bool ok() const { return status == CUBLAS_STATUS_SUCCESS; }
};

// Fills m, n and k. INVALID_VALUE for shapes and leading dimensions that contradict each other, NOT_SUPPORTED for
// what the library has no kernel for.
Verdict check_matmul(Matmul& matmul);

// Operands of a call.
struct MatmulPointers {
  float alpha = 1;
  float beta = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* c = nullptr;
  void* d = nullptr;
};

// What an algorithm was chosen for, in its opaque words.
struct Algo {
  uint64_t magic = 0;
  uint64_t id = 0;  // 1, 2 or 3
  uint64_t workspace_bytes = 0;
  uint64_t alignment = 0;  // of the pointers
  uint64_t problem = 0;
  uint64_t unused[3] = {};
};
static_assert(sizeof(Algo) == sizeof(cublasLtMatmulAlgo_t));

// The choice: up to three algorithms of equal results. The first wants a workspace and 16-byte alignment, the second
// the alignment alone, the third neither. REQUIRES: check_matmul.
std::vector<Algo> candidates(const Matmul& matmul, const MatmulPreference& preference);

// Holds the caller to what it promised when it asked: the same types and epilogue, pointers at least as aligned, as
// much workspace.
Verdict check_call(const Matmul& matmul, const MatmulPointers& pointers, const Algo& algo, const void* workspace,
                   size_t workspace_bytes);

// Computes on the calling thread, fp32 inside, k in ascending order.
void run_matmul(const Matmul& matmul, const MatmulPointers& pointers);

}  // namespace emulator
