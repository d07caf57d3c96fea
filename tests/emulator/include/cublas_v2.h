// The part of cuBLAS that we call, for programs that run in the emulator: tests/emulator/cublas.cc.
#pragma once

#include <cublasLt.h>  // types that both libraries share

typedef struct cublasContext* cublasHandle_t;

#define cublasCreate cublasCreate_v2
#define cublasDestroy cublasDestroy_v2
#define cublasSetStream cublasSetStream_v2
#define cublasSetWorkspace cublasSetWorkspace_v2

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle);
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle);
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream);
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes);

// C = alpha · op(A) · op(B) + beta · C, column by column, for group_size[i] products of each group i. The arrays of
// addresses lie in device memory and are read in the stream's order, all others on the host, read during the call.
cublasStatus_t cublasGemmGroupedBatchedEx(cublasHandle_t handle, const cublasOperation_t transpose_a[],
                                          const cublasOperation_t transpose_b[], const int m[], const int n[],
                                          const int k[], const void* alpha, const void* const a[],
                                          cudaDataType_t a_type, const int a_ld[], const void* const b[],
                                          cudaDataType_t b_type, const int b_ld[], const void* beta, void* const c[],
                                          cudaDataType_t c_type, const int c_ld[], int num_groups,
                                          const int group_size[], cublasComputeType_t compute);

}  // extern "C"
