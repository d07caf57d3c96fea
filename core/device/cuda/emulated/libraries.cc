// The libraries of the emulator: always there.
#include "core/device/cuda/libraries.h"

namespace trireme::cuda {

LibraryInfo library_info(GpuLibrary library) {
  LibraryInfo info;
  info.name = library == GpuLibrary::cudnn ? "cuDNN" : library == GpuLibrary::nccl ? "NCCL" : "cuBLASLt";
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
