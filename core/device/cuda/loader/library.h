// A shared library that is opened when it is first used.
//
// The files of this folder define the functions of cuBLASLt, cuBLAS and NCCL that the program calls, under their own names: each
// looks its namesake up in the library that was opened, and calls it. Callers include the library's header and call
// what it declares. To call one more function, add it to the list of its library.
#pragma once

#include <string>
#include <vector>

#include "core/device/cuda/libraries.h"

namespace trireme::cuda {

class SharedLibrary {
 public:
  struct Names {
    std::string name;                  // "cuBLASLt"
    std::string file;                  // "libcublasLt.so.13", found as the system finds libraries
    std::vector<std::string> folders;  // where else to look
    std::string package;               // what to install
  };

  // Tries to open it; never throws.
  explicit SharedLibrary(Names names);

  const Names& names() const { return names_; }
  bool found() const { return handle_ != nullptr; }
  void* handle() const { return handle_; }
  const std::string& problem() const { return problem_; }
  std::string path() const;

  // Throws MachineError when the library was not found.
  void require() const;
  // Null when the library is not there or lacks it.
  void* find(const char* function) const;
  // Throws MachineError instead.
  void* symbol(const char* function) const;

 private:
  Names names_;
  void* handle_ = nullptr;
  std::string problem_;
};

// Each opened at the first call, for as long as the program runs.
const SharedLibrary& cublaslt_library();
const SharedLibrary& cublas_library();
const SharedLibrary& nccl_library();
const SharedLibrary& cudnn_library();

}  // namespace trireme::cuda

// In a list of forwarders: defines `name` as the library's function of that name.
#define TRIREME_FORWARD(library, result, name, parameters, arguments)                        \
  result name parameters {                                                                   \
    static const auto function = reinterpret_cast<decltype(&name)>((library).symbol(#name)); \
    return function arguments;                                                               \
  }
