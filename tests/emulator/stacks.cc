#include "tests/emulator/stacks.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/emulator/poison.h"

namespace emulator {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kDistance = Stacks::kBytes + kPage;
// Fibers that do the same use the same part of their stacks. Their ends are shifted against each other, or all of that
// would compete for a few lines of the cache.
constexpr size_t kColours = 16;
constexpr size_t kColourBytes = 192;

size_t colour(int stack) { return static_cast<size_t>(stack) % kColours * kColourBytes; }

[[noreturn]] void stop(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

// Plain system calls: the sanitizers need not know.
Stacks::Stacks(int count) : bytes_(static_cast<size_t>(count) * kDistance), count_(count) {
  const long base = syscall(SYS_mmap, nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reinterpret_cast<void*>(base) == MAP_FAILED) stop("emulator: mmap of stacks");
  base_ = static_cast<uintptr_t>(base);
  free_.reserve(static_cast<size_t>(count));
}

Stacks::~Stacks() { syscall(SYS_munmap, base_, bytes_); }

void Stacks::add() {
  if (num_added_ == count_) stop("emulator: more fibers than a block has threads");
  const uintptr_t begin = base_ + static_cast<size_t>(num_added_) * kDistance + kPage;
  if (syscall(SYS_mprotect, begin, kBytes, PROT_READ | PROT_WRITE) != 0) stop("emulator: mprotect of a stack");
  free_.push_back(reinterpret_cast<char*>(begin + kBytes - colour(num_added_)));
  ++num_added_;
}

void Stacks::take_back() {
  free_.clear();
  unpoison(base_, static_cast<size_t>(num_added_) * kDistance);
  for (int i = num_added_ - 1; i >= 0; --i) {
    const uintptr_t begin = base_ + static_cast<size_t>(i) * kDistance + kPage;
    free_.push_back(reinterpret_cast<char*>(begin + kBytes - colour(i)));
  }
}

}  // namespace emulator
