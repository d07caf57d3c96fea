// Calls a function of one of NVIDIA's libraries as the program does, through core/device/cuda/loader, on a machine that may
// lack the library: what is said then, and the exit code. For program_test.sh.
//
//   library_probe nccl|cublaslt|cublas
#include <cublasLt.h>
#include <cublas_v2.h>
#include <nccl.h>

#include <cstdio>
#include <string>

#include "core/error.h"

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  try {
    if (name == "nccl") {
      ncclUniqueId id;
      ncclGetUniqueId(&id);
    } else if (name == "cublaslt") {
      std::printf("version %zu\n", cublasLtGetVersion());
    } else if (name == "cublas") {
      cublasHandle_t handle = nullptr;
      cublasCreate(&handle);
    } else {
      throw trireme::ConfigError({.what = "unknown library", .expected = "nccl, cublaslt or cublas", .found = name});
    }
    return 0;
  } catch (const trireme::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
