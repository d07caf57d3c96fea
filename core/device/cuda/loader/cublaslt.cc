// The functions of cuBLASLt that the program calls.
#include <cuda_runtime.h>

// Hidden, so that no library that is loaded later finds these in place of its own.
#pragma GCC visibility push(hidden)
#include <cublasLt.h>
#pragma GCC visibility pop

#include "core/device/cuda/loader/library.h"

#define FORWARD(result, name, parameters, arguments) \
  TRIREME_FORWARD(::trireme::cuda::cublaslt_library(), result, name, parameters, arguments)
#define FORWARD_STATUS(name, parameters, arguments) FORWARD(cublasStatus_t, name, parameters, arguments)

extern "C" {

FORWARD_STATUS(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
FORWARD_STATUS(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
FORWARD(const char*, cublasLtGetStatusName, (cublasStatus_t status), (status))
FORWARD(const char*, cublasLtGetStatusString, (cublasStatus_t status), (status))
FORWARD(size_t, cublasLtGetVersion, (), ())

FORWARD_STATUS(cublasLtMatmulDescCreate,
               (cublasLtMatmulDesc_t * desc, cublasComputeType_t compute, cudaDataType_t scale), (desc, compute, scale))
FORWARD_STATUS(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t desc), (desc))
FORWARD_STATUS(cublasLtMatmulDescSetAttribute,
               (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void* value, size_t bytes),
               (desc, attribute, value, bytes))

FORWARD_STATUS(cublasLtMatrixLayoutCreate,
               (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld),
               (layout, type, rows, columns, ld))
FORWARD_STATUS(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))

FORWARD_STATUS(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference), (preference))
FORWARD_STATUS(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), (preference))
FORWARD_STATUS(cublasLtMatmulPreferenceSetAttribute,
               (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                const void* value, size_t bytes),
               (preference, attribute, value, bytes))

FORWARD_STATUS(cublasLtMatmulAlgoGetHeuristic,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                int requested, cublasLtMatmulHeuristicResult_t* results, int* found),
               (handle, desc, a, b, c, d, preference, requested, results, found))

FORWARD_STATUS(cublasLtMatmul,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes, cudaStream_t stream),
               (handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algo, workspace,
                workspace_bytes, stream))

}  // extern "C"
