#include "tests/emulator/poison.h"

namespace emulator {

void poison(uintptr_t, size_t) {}
void unpoison(uintptr_t, size_t) {}

}  // namespace emulator
