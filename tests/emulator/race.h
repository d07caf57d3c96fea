// What ThreadSanitizer is told: which accesses are ordered, and that each CUDA thread is a thread. race_on.cc is
// compiled in its tree; race_off.cc, which does nothing, elsewhere.
//
// Calls of the emulator's own between tokens are the only order that it learns of: operations of a stream, events,
// waits of the host, barriers. Tokens are heap memory, so that its knowledge of one goes with the memory.
#pragma once

#include <cstddef>

namespace emulator::race {

bool enabled();

void release(void* token);
void acquire(void* token);
// Null where races are not looked for.
char* new_token();
void delete_token(char* token);

// Between these, nested or not, a thread's own accesses and allocations aren't looked at: functions that are
// intercepted (memcpy, operator delete) are seen in files without instrumentation too.
void hide();
void show();

// Threads of a block. Switching orders nothing.
void* new_fiber();
void delete_fiber(void* fiber);
void* current_fiber();
void switch_to_fiber(void* fiber);

// Ordinary reads and writes of device memory by code that isn't instrumented are not seen; these are.
void wrote(void* data, size_t bytes);
void read(const void* data, size_t bytes);

}  // namespace emulator::race
