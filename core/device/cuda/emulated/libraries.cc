// The libraries of the emulator: always there.
#include "core/device/cuda/libraries.h"

namespace trireme::cuda {

LibraryInfo library_info(GpuLibrary library) {
  if (library == GpuLibrary::cudnn) {
    return {.name = "cuDNN", .file = "libcudnn.so.9", .problem = "the emulator has none", .package = "none"};
  }
  LibraryInfo info{.name = library == GpuLibrary::nccl ? "NCCL" : "cuBLASLt",
                   .file = library == GpuLibrary::nccl ? "libnccl.so.2" : "libcublasLt.so.13"};
  info.found = true;
  info.version = "emulated";
  return info;
}

void require_library(GpuLibrary) {}

}  // namespace trireme::cuda
