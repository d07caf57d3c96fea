// Says who touched memory that he must not, before the program dies of it; what a kernel did becomes a failure of that
// kernel (cudaErrorIllegalAddress).
#pragma once

namespace emulator {

// Once for the program; further calls do nothing.
void watch_faults();
// For each thread that runs kernels: a stack for the handler, as the fiber's own may be what overflowed.
void give_fault_stack();

}  // namespace emulator
