// The functions of cuBLAS that the program calls.
#include <cuda_runtime.h>

// Hidden, so that no library that is loaded later finds these in place of its own.
#pragma GCC visibility push(hidden)
#include <cublas_v2.h>
#pragma GCC visibility pop

#include "core/device/cuda/loader/library.h"

// `name` is the function's name in the library: cublas_v2.h calls cublasCreate_v2 cublasCreate.
#define FORWARD_STATUS(name, parameters, arguments) \
  TRIREME_FORWARD(::trireme::cuda::cublas_library(), cublasStatus_t, name, parameters, arguments)

extern "C" {

FORWARD_STATUS(cublasCreate_v2, (cublasHandle_t * handle), (handle))
FORWARD_STATUS(cublasDestroy_v2, (cublasHandle_t handle), (handle))
FORWARD_STATUS(cublasSetStream_v2, (cublasHandle_t handle, cudaStream_t stream), (handle, stream))
FORWARD_STATUS(cublasSetWorkspace_v2, (cublasHandle_t handle, void* workspace, size_t bytes),
               (handle, workspace, bytes))

FORWARD_STATUS(cublasGemmGroupedBatchedEx,
               (cublasHandle_t handle, const cublasOperation_t* transpose_a, const cublasOperation_t* transpose_b,
                const int* m, const int* n, const int* k, const void* alpha, const void* const* a,
                cudaDataType_t a_type, const int* a_ld, const void* const* b, cudaDataType_t b_type, const int* b_ld,
                const void* beta, void* const* c, cudaDataType_t c_type, const int* c_ld, int num_groups,
                const int* group_sizes, cublasComputeType_t compute),
               (handle, transpose_a, transpose_b, m, n, k, alpha, a, a_type, a_ld, b, b_type, b_ld, beta, c, c_type,
                c_ld, num_groups, group_sizes, compute))

}  // extern "C"
