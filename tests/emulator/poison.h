// What AddressSanitizer is told, and memory that holds nothing meaningful. poison_on.cc is compiled in its tree,
// poison_off.cc elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

void poison(uintptr_t begin, size_t bytes);
void unpoison(uintptr_t begin, size_t bytes);

// Writes bytes 0xFF that no sanitizer sees being written. Inline assembly: a call of memset would be seen.
inline void fill_unseen(uintptr_t begin, size_t bytes) {
  asm volatile("rep stosb" : "+D"(begin), "+c"(bytes) : "a"(0xFF) : "memory");
}

}  // namespace emulator
