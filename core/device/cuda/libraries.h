// NVIDIA's libraries that this program opens when it first needs them, so that it starts on a machine without them.
// No CUDA header is needed to include this one.
//
// Thread safety: all of it may be called from any thread.
#pragma once

#include <cstdint>
#include <string>

namespace trireme::cuda {

enum class GpuLibrary : uint8_t {
  cublaslt,  // matrix multiplication; nothing runs on a GPU without it
  cublas,    // products of several experts in one call; without it one after the other
  nccl,      // several GPUs
  cudnn,     // fused attention; there is a slower one of ours
};

struct LibraryInfo {
  std::string name;  // "cuBLASLt"
  std::string file;  // "libcublasLt.so.13"
  bool found = false;
  std::string version;  // "13.1.0"
  std::string path;     // of the file that was opened
  std::string problem;  // why it could not be opened
  std::string package;  // what brings it
};

// Opens the library. Never throws.
LibraryInfo library_info(GpuLibrary library);
// Throws MachineError that names the file and the package unless the library can be opened.
void require_library(GpuLibrary library);

}  // namespace trireme::cuda
