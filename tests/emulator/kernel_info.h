// What the emulator knows of a kernel from the program's symbol table: its name, and where its static shared variables
// lie in a thread's thread-local memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

namespace emulator {

struct SharedVariable {
  std::ptrdiff_t offset;  // from the thread pointer
  size_t bytes;
};

struct KernelInfo {
  std::string name;                              // "kernel cuda::run_elements<4>"
  std::vector<SharedVariable> shared;            // its own, and those of device functions, which any kernel may call
  size_t static_bytes = 0;                       // of its own
  std::atomic<int> max_dynamic_bytes{48 << 10};  // as cudaFuncSetAttribute has set it
};

// Of the kernel at this address. Lives for ever; thread-safe. Cheap after the first call.
KernelInfo& kernel_info(const void* kernel);

// This thread's copy of a shared variable.
inline char* address_of(const SharedVariable& variable) {
  return static_cast<char*>(__builtin_thread_pointer()) + variable.offset;
}

}  // namespace emulator
