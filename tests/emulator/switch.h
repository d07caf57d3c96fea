// The switch from one stack to another.
#pragma once

// Leaves the running stack, noting its pointer in *save, and goes on with the one that was left at `load`. Orders
// nothing for ThreadSanitizer; see race.h.
extern "C" void emulator_switch(void** save, void* load);

namespace emulator {

// What emulator_switch takes for a stack that ends at `top` and has not run yet: it begins with `entry`, which must not
// return.
void* new_stack_pointer(char* top, void (*entry)());

}  // namespace emulator
