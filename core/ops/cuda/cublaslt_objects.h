// Objects of cuBLASLt that are freed with their owner, and its errors as ours.
#pragma once

#include <cublasLt.h>

#include <string>

#include "core/error.h"

namespace trireme::cuda {

inline void check_cublas(cublasStatus_t status, const std::string& what, const std::string& library = "cuBLASLt") {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw MachineError({.what = library + " failed to " + what,
                      .found = std::string(cublasLtGetStatusName(status)) + ": " + cublasLtGetStatusString(status)});
}

// A library object that is freed with its owner.
template <class T, cublasStatus_t (*destroy)(T)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (object_ != nullptr) destroy(object_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* operator&() { return &object_; }
  operator T() const { return object_; }

 private:
  T object_ = nullptr;
};

inline cublasStatus_t destroy_layout(cublasLtMatrixLayout_t layout) { return cublasLtMatrixLayoutDestroy(layout); }
inline cublasStatus_t destroy_operation(cublasLtMatmulDesc_t desc) { return cublasLtMatmulDescDestroy(desc); }
inline cublasStatus_t destroy_preference(cublasLtMatmulPreference_t p) { return cublasLtMatmulPreferenceDestroy(p); }
using Layout = Owned<cublasLtMatrixLayout_t, destroy_layout>;
using Operation = Owned<cublasLtMatmulDesc_t, destroy_operation>;
using Preference = Owned<cublasLtMatmulPreference_t, destroy_preference>;

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check_cublas(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "describe a product");
}

template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
               "describe which algorithms are wanted");
}

}  // namespace trireme::cuda
