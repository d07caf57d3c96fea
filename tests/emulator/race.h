// What ThreadSanitizer is told: which accesses are ordered, and that each CUDA thread is a thread. race_on.cc is
// compiled in its tree; race_off.cc, which does nothing, elsewhere.
//
// Calls of the emulator's own between tokens are the only order that it learns of: operations of a stream, events,
// waits of the host, barriers. Tokens are heap memory, so that its knowledge of one goes with the memory.
#pragma once

namespace emulator::race {

bool enabled();

void release(void* token);
void acquire(void* token);
// Null where races are not looked for.
char* new_token();
void delete_token(char* token);

// Threads of a block. Switching orders nothing.
void* new_fiber();
void delete_fiber(void* fiber);
void* current_fiber();
void switch_to_fiber(void* fiber);

// The emulator's own objects go from thread to thread under locks that ThreadSanitizer doesn't see; it would take their
// allocation and deletion for races. So functions of the runtime and the loops of its threads are ignored, but for the
// operations themselves.
void ignore_begin();
void ignore_end();

class Ignored {
 public:
  Ignored() { ignore_begin(); }
  ~Ignored() { ignore_end(); }
  Ignored(const Ignored&) = delete;
  Ignored& operator=(const Ignored&) = delete;
};

// Within one Ignored.
class Seen {
 public:
  Seen() { ignore_end(); }
  ~Seen() { ignore_begin(); }
  Seen(const Seen&) = delete;
  Seen& operator=(const Seen&) = delete;
};

}  // namespace emulator::race
