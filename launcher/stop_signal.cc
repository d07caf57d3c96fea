#include "launcher/stop_signal.h"

#include <time.h>

#include <atomic>
#include <csignal>
#include <cstdint>

namespace trireme {

namespace {

// Whichever thread a signal reaches: lock-free atomics may be used in handlers.
std::atomic<int> received_signal{0};
std::atomic<int64_t> first_ns{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

void on_signal(int number) {
  const int64_t now = now_ns();
  int64_t first = 0;
  if (first_ns.compare_exchange_strong(first, now)) {
    received_signal.store(number);
  } else if (now - first >= StopSignal::kSameRequestSeconds * int64_t{1000000000}) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
}

struct sigaction former_term;
struct sigaction former_int;
struct sigaction former_usr1;

}  // namespace

StopSignal::StopSignal() {
  received_signal.store(0);
  first_ns.store(0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, &former_term);
  sigaction(SIGINT, &action, &former_int);
  sigaction(SIGUSR1, &action, &former_usr1);
}

StopSignal::~StopSignal() {
  sigaction(SIGTERM, &former_term, nullptr);
  sigaction(SIGINT, &former_int, nullptr);
  sigaction(SIGUSR1, &former_usr1, nullptr);
}

int StopSignal::received() const { return received_signal.load(); }

}  // namespace trireme
