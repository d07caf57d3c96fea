// The libraries of the emulator: always there.
#include "core/device/cuda/libraries.h"

namespace trireme::cuda {

LibraryInfo library_info(GpuLibrary library) {
  LibraryInfo info;
  switch (library) {
    case GpuLibrary::cublaslt: info.name = "cuBLASLt"; break;
    case GpuLibrary::cublas: info.name = "cuBLAS"; break;
    case GpuLibrary::nccl: info.name = "NCCL"; break;
    case GpuLibrary::cudnn: info.name = "cuDNN"; break;
  }
  info.found = library != GpuLibrary::cudnn;
  if (info.found) {
    info.version = "emulated";
  } else {
    info.problem = "the emulator has none";
  }
  return info;
}

void require_library(GpuLibrary) {}

}  // namespace trireme::cuda
