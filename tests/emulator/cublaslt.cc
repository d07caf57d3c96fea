// The emulated cuBLASLt: descriptors, the choice of algorithms, and the call that queues a product on a stream.
// As in the library, CUBLASLT_LOG_LEVEL=1 prints why a call was refused.
#include <cublasLt.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/emulator/cublaslt_problem.h"
#include "tests/emulator/stream.h"

struct cublasLtContext {
  uint64_t magic = 0;
};

namespace emulator {

namespace {

constexpr uint64_t kHandleMagic = 0x7472697265ULL;

MatrixLayout& of(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<MatrixLayout*>(layout); }
MatmulDesc& of(cublasLtMatmulDesc_t desc) { return *reinterpret_cast<MatmulDesc*>(desc); }
MatmulPreference& of(cublasLtMatmulPreference_t preference) { return *reinterpret_cast<MatmulPreference*>(preference); }

cublasStatus_t refuse(const char* call, const Verdict& verdict) {
  const char* level = std::getenv("CUBLASLT_LOG_LEVEL");
  if (!verdict.ok() && level != nullptr && std::atoi(level) > 0) {
    std::fprintf(stderr, "[emulated cuBLASLt] %s: %s: %s\n", call, cublasLtGetStatusName(verdict.status),
                 verdict.reason.c_str());
  }
  return verdict.status;
}

// Where an attribute is kept, and its size.
struct Field {
  void* place = nullptr;
  size_t bytes = 0;
};

template <class T>
Field field(T& value) {
  return {&value, sizeof(T)};
}

cublasStatus_t assign(const char* call, int attribute, const Field& field, const void* value, size_t bytes) {
  if (field.place == nullptr || value == nullptr || field.bytes != bytes) {
    return refuse(
        call, {CUBLAS_STATUS_INVALID_VALUE, "attribute " + std::to_string(attribute) + " of " + std::to_string(bytes) +
                                                " bytes, expected " + std::to_string(field.bytes)});
  }
  std::memcpy(field.place, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

// What the first algorithm does with its workspace: two products at once that share one must show as a race, and what
// is left there must not matter.
void use_workspace(void* workspace, uint64_t bytes, uint64_t value) {
  auto* words = static_cast<uint64_t*>(workspace);
  for (uint64_t i = 0; i < bytes / sizeof(uint64_t); ++i) words[i] = value + i;
}

}  // namespace
}  // namespace emulator

using emulator::of;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext{emulator::kHandleMagic};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  if (handle == nullptr || handle->magic != emulator::kHandleMagic) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->magic = 0;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR: return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_LICENSE_ERROR: return "CUBLAS_STATUS_LICENSE_ERROR";
  }
  return "unknown status";
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_INVALID_VALUE: return "an argument is invalid";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the operation is not supported";
    default: return cublasLtGetStatusName(status);
  }
}

size_t cublasLtGetVersion(void) { return 130000; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute_type,
                                        cudaDataType_t scale_type) {
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(
      new emulator::MatmulDesc{.compute_type = compute_type, .scale_type = scale_type});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete &of(desc);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  emulator::MatmulDesc& d = of(desc);
  emulator::Field field;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: field = emulator::field(d.compute_type); break;
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: field = emulator::field(d.scale_type); break;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: field = emulator::field(d.pointer_mode); break;
    case CUBLASLT_MATMUL_DESC_TRANSA: field = emulator::field(d.transpose_a); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: field = emulator::field(d.transpose_b); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: field = emulator::field(d.epilogue); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: field = emulator::field(d.bias); break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: field = emulator::field(d.bias_type); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: field = emulator::field(d.aux); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: field = emulator::field(d.aux_ld); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: field = emulator::field(d.aux_type); break;
  }
  return emulator::assign("cublasLtMatmulDescSetAttribute", attribute, field, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new emulator::MatrixLayout{.type = type, .rows = rows, .cols = cols, .ld = ld});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &of(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  emulator::MatrixLayout& l = of(layout);
  emulator::Field field;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: field = emulator::field(l.type); break;
    case CUBLASLT_MATRIX_LAYOUT_ORDER: field = emulator::field(l.order); break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS: field = emulator::field(l.rows); break;
    case CUBLASLT_MATRIX_LAYOUT_COLS: field = emulator::field(l.cols); break;
    case CUBLASLT_MATRIX_LAYOUT_LD: field = emulator::field(l.ld); break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: field = emulator::field(l.batch_count); break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: field = emulator::field(l.batch_offset); break;
  }
  return emulator::assign("cublasLtMatrixLayoutSetAttribute", attribute, field, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new emulator::MatmulPreference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete &of(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  emulator::MatmulPreference& p = of(preference);
  emulator::Field field;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: field = emulator::field(p.max_workspace_bytes); break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: field = emulator::field(p.reduction_schemes); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: field = emulator::field(p.alignment[0]); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: field = emulator::field(p.alignment[1]); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: field = emulator::field(p.alignment[2]); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: field = emulator::field(p.alignment[3]); break;
  }
  return emulator::assign("cublasLtMatmulPreferenceSetAttribute", attribute, field, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int num_requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* num_returned) {
  constexpr const char* kCall = "cublasLtMatmulAlgoGetHeuristic";
  *num_returned = 0;
  if (handle == nullptr || handle->magic != emulator::kHandleMagic) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (num_requested <= 0) return emulator::refuse(kCall, {CUBLAS_STATUS_INVALID_VALUE, "no result is asked for"});
  emulator::Matmul x{.desc = of(operation), .a = of(a), .b = of(b), .c = of(c), .d = of(d)};
  if (const emulator::Verdict verdict = check_matmul(x); !verdict.ok()) return emulator::refuse(kCall, verdict);
  for (const emulator::Algo& algo : emulator::candidates(x, of(preference))) {
    if (*num_returned == num_requested) break;
    cublasLtMatmulHeuristicResult_t& result = results[(*num_returned)++];
    result = {};
    result.algo = std::bit_cast<cublasLtMatmulAlgo_t>(algo);
    result.workspaceSize = algo.workspace_bytes;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1.0F;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  constexpr const char* kCall = "cublasLtMatmul";
  if (handle == nullptr || handle->magic != emulator::kHandleMagic) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (alpha == nullptr || beta == nullptr) {
    return emulator::refuse(kCall, {CUBLAS_STATUS_INVALID_VALUE, "alpha or beta is null"});
  }
  emulator::Matmul x{.desc = of(operation), .a = of(a_layout), .b = of(b_layout), .c = of(c_layout), .d = of(d_layout)};
  if (const emulator::Verdict verdict = check_matmul(x); !verdict.ok()) return emulator::refuse(kCall, verdict);
  const emulator::MatmulPointers pointers{.alpha = *static_cast<const float*>(alpha),
                                          .beta = *static_cast<const float*>(beta),
                                          .a = a,
                                          .b = b,
                                          .c = c,
                                          .d = d};
  emulator::Algo chosen;
  if (algo != nullptr) {
    chosen = std::bit_cast<emulator::Algo>(*algo);
  } else {  // the library asks itself
    chosen = emulator::candidates(x, {.max_workspace_bytes = workspace_bytes, .alignment = {1, 1, 1, 1}}).front();
  }
  const emulator::Verdict verdict = emulator::check_call(x, pointers, chosen, workspace, workspace_bytes);
  if (!verdict.ok()) return emulator::refuse(kCall, verdict);
  emulator::submit(stream, kCall, [x, pointers, workspace, bytes = chosen.workspace_bytes] {
    emulator::use_workspace(workspace, bytes, /*value=*/0x5555555555555555ULL);
    emulator::run_matmul(x, pointers);
    emulator::use_workspace(workspace, bytes, /*value=*/0xAAAAAAAAAAAAAAAAULL);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
