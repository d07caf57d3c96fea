#include "core/ops/gemm_algorithms.h"

#include "core/ops/dispatch.h"

namespace trireme::ops {

std::string export_gemm_algorithms(Stream& stream) {
  std::string json;
  TRIREME_DISPATCH(stream, export_gemm_algorithms(stream, json));
  return json;
}

bool import_gemm_algorithms(Stream& stream, const std::string& json) {
  bool imported = true;
  TRIREME_DISPATCH(stream, import_gemm_algorithms(stream, json, imported));
  return imported;
}

}  // namespace trireme::ops
