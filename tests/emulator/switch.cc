#include "tests/emulator/switch.h"

#include <cstdint>

// The registers that a function must keep (System V ABI) lie on the stack while it isn't running. The floating-point
// control words are the same for all threads of a kernel and stay.
asm(R"(
        .text
        .globl  emulator_switch
        .type   emulator_switch, @function
        .p2align 5
emulator_switch:
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret
        .size   emulator_switch, .-emulator_switch
)");

namespace emulator {

void* new_stack_pointer(char* top, void (*entry)()) {
  // entry finds its stack as after a call: 8 bytes, a return address that nobody uses, above a multiple of 16.
  auto* words = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15}) - 8;
  for (int i = 0; i < 6; ++i) words[i] = 0;  // a frame pointer of 0 ends a backtrace
  words[6] = reinterpret_cast<uintptr_t>(entry);
  words[7] = 0;
  return words;
}

}  // namespace emulator
