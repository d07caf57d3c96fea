#include "tests/emulator/cublaslt_problem.h"

namespace emulator {

namespace {

Verdict invalid(std::string reason) { return {CUBLAS_STATUS_INVALID_VALUE, std::move(reason)}; }
Verdict unsupported(std::string reason) { return {CUBLAS_STATUS_NOT_SUPPORTED, std::move(reason)}; }

Verdict check_layout(const MatrixLayout& layout, const std::string& name) {
  const auto least = static_cast<int64_t>(layout.order == CUBLASLT_ORDER_COL ? layout.rows : layout.cols);
  if (layout.ld < least) {
    return invalid("leading dimension " + std::to_string(layout.ld) + " of " + name + " is less than " +
                   std::to_string(least));
  }
  if (layout.order != CUBLASLT_ORDER_COL && layout.order != CUBLASLT_ORDER_ROW) return invalid("order of " + name);
  if (layout.rows == 0 || layout.cols == 0) return unsupported(name + " is empty");
  if (layout.batch_count != 1) return unsupported("batches");
  if (layout.type != CUDA_R_32F && layout.type != CUDA_R_16BF) return unsupported("type of " + name);
  return {};
}

// The combinations with fp32 accumulation that there are kernels for.
Verdict check_types(const Matmul& x) {
  const int32_t compute = x.desc.compute_type;
  const bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (!tf32 && compute != CUBLAS_COMPUTE_32F) return unsupported("compute type " + std::to_string(compute));
  if (x.desc.scale_type != CUDA_R_32F) return unsupported("scale type");
  if (x.desc.pointer_mode != CUBLASLT_POINTER_MODE_HOST) return unsupported("alpha and beta in device memory");
  if (x.a.type != x.b.type) return unsupported("types of A and B differ");
  if (x.c.type != x.d.type) return unsupported("types of C and D differ");
  if (x.a.type == CUDA_R_32F && x.d.type != CUDA_R_32F) return unsupported("f32 operands with another result");
  if (tf32 && x.a.type != CUDA_R_32F) return unsupported("TF32 of other operands than f32");
  return {};
}

Verdict check_epilogue(const Matmul& x) {
  switch (x.desc.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT: return {};
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
    case CUBLASLT_EPILOGUE_DGELU_BGRAD:
    case CUBLASLT_EPILOGUE_BGRADA:
    case CUBLASLT_EPILOGUE_BGRADB: break;
    default: return unsupported("epilogue " + std::to_string(x.desc.epilogue));
  }
  if (x.d.order != CUBLASLT_ORDER_COL) return unsupported("an epilogue on a row-major result");
  const bool bias = x.desc.reads_bias() || x.desc.writes_bias();
  if (bias && x.desc.bias_type != -1 && x.desc.bias_type != x.d.type) return unsupported("bias of another type than D");
  if (!x.desc.uses_aux()) return {};
  if (x.desc.aux_type != -1 && x.desc.aux_type != x.d.type) return unsupported("aux of another type than D");
  if (x.desc.aux_ld < x.m || x.desc.aux_ld % 8 != 0) {
    return invalid("leading dimension " + std::to_string(x.desc.aux_ld) + " of aux is no multiple of 8 from " +
                   std::to_string(x.m) + " on");
  }
  return {};
}

}  // namespace

Verdict check_matmul(Matmul& x) {
  for (const auto& [layout, name] : {std::pair{&x.a, "A"}, {&x.b, "B"}, {&x.c, "C"}, {&x.d, "D"}}) {
    if (Verdict verdict = check_layout(*layout, name); !verdict.ok()) return verdict;
  }
  for (const int32_t op : {x.desc.transpose_a, x.desc.transpose_b}) {
    if (op != CUBLAS_OP_N && op != CUBLAS_OP_T && op != CUBLAS_OP_C) return invalid("operation");
  }
  const bool flip_a = x.desc.transpose_a != CUBLAS_OP_N;
  const bool flip_b = x.desc.transpose_b != CUBLAS_OP_N;
  x.m = static_cast<int64_t>(flip_a ? x.a.cols : x.a.rows);
  x.k = static_cast<int64_t>(flip_a ? x.a.rows : x.a.cols);
  x.n = static_cast<int64_t>(flip_b ? x.b.rows : x.b.cols);
  if (static_cast<int64_t>(flip_b ? x.b.cols : x.b.rows) != x.k) return invalid("A and B don't share k");
  for (const MatrixLayout* layout : {&x.c, &x.d}) {
    if (static_cast<int64_t>(layout->rows) != x.m || static_cast<int64_t>(layout->cols) != x.n) {
      return invalid("C or D is not " + std::to_string(x.m) + " x " + std::to_string(x.n));
    }
  }
  if (x.c.order != x.d.order) return unsupported("orders of C and D differ");
  if (Verdict verdict = check_types(x); !verdict.ok()) return verdict;
  return check_epilogue(x);
}

}  // namespace emulator
