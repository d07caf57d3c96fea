#include "core/device/cuda/loader/library.h"

#include <dlfcn.h>
#include <link.h>

#include "core/error.h"

namespace trireme::cuda {

namespace {

// Where the toolkit's own packages put libraries, in case the system's search doesn't lead there.
const std::vector<std::string> kToolkitFolders = {"/usr/local/cuda/lib64", "/usr/local/cuda-13.0/lib64"};

std::string version_str(int64_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::string version_of(GpuLibrary library, const SharedLibrary& shared) {
  switch (library) {
    case GpuLibrary::cublaslt:
      if (auto* get = reinterpret_cast<size_t (*)()>(shared.find("cublasLtGetVersion"))) {
        return version_str(static_cast<int64_t>(get()));
      }
      break;
    case GpuLibrary::cublas:
      if (auto* get = reinterpret_cast<int (*)(int, int*)>(shared.find("cublasGetProperty"))) {
        int parts[3] = {};  // major, minor, patch
        for (int i = 0; i < 3; ++i) get(i, &parts[i]);
        return version_str(int64_t{10000} * parts[0] + int64_t{100} * parts[1] + parts[2]);
      }
      break;
    case GpuLibrary::nccl:
      if (auto* get = reinterpret_cast<int (*)(int*)>(shared.find("ncclGetVersion"))) {
        int version = 0;
        if (get(&version) == 0) return version_str(version);
      }
      break;
    case GpuLibrary::cudnn:
      if (auto* get = reinterpret_cast<size_t (*)()>(shared.find("cudnnGetVersion"))) {
        return version_str(static_cast<int64_t>(get()));
      }
      break;
  }
  return "unknown";
}

const SharedLibrary& shared_library(GpuLibrary library) {
  switch (library) {
    case GpuLibrary::cublaslt: return cublaslt_library();
    case GpuLibrary::cublas: return cublas_library();
    case GpuLibrary::nccl: return nccl_library();
    case GpuLibrary::cudnn: break;
  }
  return cudnn_library();
}

}  // namespace

SharedLibrary::SharedLibrary(Names names) : names_(std::move(names)) {
  handle_ = dlopen(names_.file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr) {
    const char* text = dlerror();
    problem_ = text == nullptr ? "dlopen failed" : text;
  }
  for (size_t i = 0; i < names_.folders.size() && handle_ == nullptr; ++i) {
    handle_ = dlopen((names_.folders[i] + "/" + names_.file).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle_ != nullptr) problem_.clear();
}

std::string SharedLibrary::path() const {
  link_map* map = nullptr;
  if (handle_ == nullptr || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0) return "";
  return map->l_name;
}

void SharedLibrary::require() const {
  if (found()) return;
  throw MachineError({.what = names_.file + " (" + names_.name + ") was not found",
                      .found = problem_,
                      .hint = names_.package + ", or the folder that holds it in LD_LIBRARY_PATH"});
}

void* SharedLibrary::find(const char* function) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, function);
}

void* SharedLibrary::symbol(const char* function) const {
  require();
  void* address = find(function);
  if (address == nullptr) {
    throw MachineError({.what = names_.name + " has no function " + function,
                        .where = path(),
                        .hint = "a newer version: " + names_.package});
  }
  return address;
}

const SharedLibrary& cublaslt_library() {
  static const SharedLibrary library({.name = "cuBLASLt",
                                      .file = "libcublasLt.so.13",
                                      .folders = kToolkitFolders,
                                      .package = "apt-get install libcublas-13-0 (NVIDIA's repository)"});
  return library;
}

const SharedLibrary& cublas_library() {
  static const SharedLibrary library({.name = "cuBLAS",
                                      .file = "libcublas.so.13",
                                      .folders = kToolkitFolders,
                                      .package = "apt-get install libcublas-13-0 (NVIDIA's repository)"});
  return library;
}

const SharedLibrary& nccl_library() {
  static const SharedLibrary library({.name = "NCCL",
                                      .file = "libnccl.so.2",
                                      .folders = kToolkitFolders,
                                      .package = "apt-get install libnccl2 (NVIDIA's repository)"});
  return library;
}

const SharedLibrary& cudnn_library() {
  static const SharedLibrary library({.name = "cuDNN",
                                      .file = "libcudnn.so.9",
                                      .folders = kToolkitFolders,
                                      .package = "apt-get install libcudnn9-cuda-13 (NVIDIA's repository)"});
  return library;
}

LibraryInfo library_info(GpuLibrary library) {
  const SharedLibrary& shared = shared_library(library);
  LibraryInfo info;
  info.name = shared.names().name;
  info.file = shared.names().file;
  info.package = shared.names().package;
  info.found = shared.found();
  info.problem = shared.problem();
  info.path = shared.path();
  if (info.found) info.version = version_of(library, shared);
  return info;
}

void require_library(GpuLibrary library) { shared_library(library).require(); }

}  // namespace trireme::cuda
