#include <sanitizer/tsan_interface.h>

#include "tests/emulator/race.h"

extern "C" {
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

namespace emulator::race {

bool enabled() { return true; }
void release(void* token) { __tsan_release(token); }
void acquire(void* token) { __tsan_acquire(token); }
// Of a size of its own: what ThreadSanitizer keeps for it goes when it is freed.
char* new_token() { return new char[8]; }
void delete_token(char* token) { delete[] token; }
void* new_fiber() { return __tsan_create_fiber(0); }
void delete_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
void* current_fiber() { return __tsan_get_current_fiber(); }
void switch_to_fiber(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
// Either does both in GCC's library.
void ignore_begin() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
void ignore_end() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }

}  // namespace emulator::race
