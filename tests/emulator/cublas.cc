// The emulated cuBLAS: grouped products, by the checks and the arithmetic of the emulated cuBLASLt.
// As there, CUBLASLT_LOG_LEVEL=1 prints why a call was refused.
#include <cublas_v2.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/emulator/cublaslt_problem.h"
#include "tests/emulator/stream.h"

struct cublasContext {
  uint64_t magic = 0;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

namespace emulator {

namespace {

constexpr uint64_t kCublasMagic = 0x6375626c6173ULL;
constexpr const char* kGrouped = "cublasGemmGroupedBatchedEx";
constexpr int64_t kAlignment = 16;  // bytes, of addresses and leading dimensions: what the fast kernels need

bool is_alive(cublasHandle_t handle) { return handle != nullptr && handle->magic == kCublasMagic; }

cublasStatus_t refuse(const Verdict& verdict) {
  const char* level = std::getenv("CUBLASLT_LOG_LEVEL");
  if (level != nullptr && std::atoi(level) > 0) {
    std::fprintf(stderr, "[emulated cuBLAS] %s: %s: %s\n", kGrouped, cublasLtGetStatusName(verdict.status),
                 verdict.reason.c_str());
  }
  return verdict.status;
}

MatrixLayout layout(cudaDataType_t type, bool transposed, int rows, int cols, int ld) {
  return {.type = type,
          .rows = static_cast<uint64_t>(transposed ? cols : rows),
          .cols = static_cast<uint64_t>(transposed ? rows : cols),
          .ld = ld};
}

// One product of a call, without its addresses.
struct Product {
  Matmul matmul;
  float alpha = 1;
  float beta = 0;
};

void run_products(const std::vector<Product>& products, const void* const* a, const void* const* b, void* const* c) {
  for (size_t i = 0; i < products.size(); ++i) {
    const Matmul& x = products[i].matmul;
    for (const auto& [address, matrix] :
         {std::pair<const void*, const MatrixLayout*>{a[i], &x.a}, {b[i], &x.b}, {c[i], &x.c}}) {
      if (reinterpret_cast<uintptr_t>(address) % kAlignment != 0) {
        fail(std::string(kGrouped) + ": product " + std::to_string(i) + " has an address that is no multiple of 16");
      }
      const int64_t elements =
          matrix->at(static_cast<int64_t>(matrix->rows) - 1, static_cast<int64_t>(matrix->cols) - 1) + 1;
      if (!is_device_range(address, static_cast<size_t>(elements * matrix->element_bytes()))) {
        fail(std::string(kGrouped) + ": product " + std::to_string(i) + " has a matrix outside of device memory");
      }
    }
    run_matmul(x, {.alpha = products[i].alpha, .beta = products[i].beta, .a = a[i], .b = b[i], .c = c[i], .d = c[i]});
  }
}

}  // namespace
}  // namespace emulator

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  *handle = new cublasContext{.magic = emulator::kCublasMagic};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  if (!emulator::is_alive(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->magic = 0;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  if (!emulator::is_alive(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  handle->workspace = nullptr;
  handle->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (!emulator::is_alive(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmGroupedBatchedEx(cublasHandle_t handle, const cublasOperation_t transpose_a[],
                                          const cublasOperation_t transpose_b[], const int m[], const int n[],
                                          const int k[], const void* alpha, const void* const a[],
                                          cudaDataType_t a_type, const int a_ld[], const void* const b[],
                                          cudaDataType_t b_type, const int b_ld[], const void* beta, void* const c[],
                                          cudaDataType_t c_type, const int c_ld[], int num_groups,
                                          const int group_size[], cublasComputeType_t compute) {
  using emulator::refuse;
  if (!emulator::is_alive(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (a_type != c_type) return refuse({CUBLAS_STATUS_NOT_SUPPORTED, "a result of another type than the operands"});
  std::vector<emulator::Product> products;
  for (int g = 0; g < num_groups; ++g) {
    const bool flip_a = transpose_a[g] != CUBLAS_OP_N;
    const bool flip_b = transpose_b[g] != CUBLAS_OP_N;
    emulator::Matmul x;
    x.desc.compute_type = compute;
    x.desc.transpose_a = transpose_a[g];
    x.desc.transpose_b = transpose_b[g];
    x.a = emulator::layout(a_type, flip_a, m[g], k[g], a_ld[g]);
    x.b = emulator::layout(b_type, flip_b, k[g], n[g], b_ld[g]);
    x.c = x.d = emulator::layout(c_type, false, m[g], n[g], c_ld[g]);
    if (const emulator::Verdict verdict = check_matmul(x); !verdict.ok()) return refuse(verdict);
    for (int i = 0; i < group_size[g]; ++i) {
      products.push_back({x, static_cast<const float*>(alpha)[g], static_cast<const float*>(beta)[g]});
    }
  }
  emulator::submit(handle->stream, emulator::kGrouped,
                   [products, a, b, c, workspace = handle->workspace, bytes = handle->workspace_bytes] {
                     // As in cublasLtMatmul: who shares the workspace must show.
                     if (bytes > 0) std::memset(workspace, 0x55, std::min<size_t>(bytes, 4096));
                     emulator::run_products(products, a, b, c);
                     if (bytes > 0) std::memset(workspace, 0xAA, std::min<size_t>(bytes, 4096));
                   });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
