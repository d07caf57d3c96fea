#include "tests/emulator/fault.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "tests/emulator/block.h"
#include "tests/emulator/memory.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

namespace {

struct sigaction handler_before;

template <class... Parts>
void say(const char* format, Parts... parts) {
  char line[400];
  const int length = std::snprintf(line, sizeof line, format, parts...);
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, std::min<size_t>(length, sizeof line - 1));
}

// Where a kernel goes on that touched what it must not: on its own stack, as if it had called this.
void fail_in_kernel() { BlockRunner::running()->fail_for_fault(); }

void leave_for(ucontext_t& context, void (*function)()) {
  auto& registers = context.uc_mcontext.gregs;
  constexpr greg_t kRedZone = 128;  // below the stack pointer, which leaf functions use
  registers[REG_RSP] = ((registers[REG_RSP] - kRedZone) & ~greg_t{15}) - 8;
  registers[REG_RIP] = reinterpret_cast<greg_t>(function);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  BlockRunner* block = BlockRunner::running();
  if (block != nullptr && block->owns_stack_address(address)) {
    say("emulator: a thread of %s needs more than the %zu KiB of stack that the emulator gives it\n",
        block->kernel_name(), Stacks::kBytes >> 10);
  } else if (pointer_device(info->si_addr) >= 0) {
    if (block != nullptr) {
      block->note_fault(address);
      leave_for(*static_cast<ucontext_t*>(context), &fail_in_kernel);
      return;
    }
    say("emulator: %s (%s)\n",
        StreamThread::current() == nullptr ? "host code touches device memory"
                                           : "an operation touches device memory that it must not",
        describe_device_address(address).text);
  }
  // Back to whoever was there before; the access is tried again.
  sigaction(signal, &handler_before, nullptr);
}

}  // namespace

void watch_faults() {
  static const bool once = [] {
    struct sigaction action = {};
    action.sa_sigaction = &on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &handler_before);
    return true;
  }();
  static_cast<void>(once);
}

void give_fault_stack() {
  stack_t now;
  if (sigaltstack(nullptr, &now) == 0 && (now.ss_flags & SS_DISABLE) == 0) return;
  constexpr size_t kBytes = 64 << 10;
  stack_t stack = {};
  stack.ss_sp = new char[kBytes];  // as long as the thread, which never ends
  stack.ss_size = kBytes;
  sigaltstack(&stack, nullptr);
}

}  // namespace emulator
