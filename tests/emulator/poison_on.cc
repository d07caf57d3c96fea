#include <sanitizer/asan_interface.h>

#include "tests/emulator/poison.h"

namespace emulator {

void poison(uintptr_t begin, size_t bytes) { __asan_poison_memory_region(reinterpret_cast<void*>(begin), bytes); }
void unpoison(uintptr_t begin, size_t bytes) { __asan_unpoison_memory_region(reinterpret_cast<void*>(begin), bytes); }

}  // namespace emulator
