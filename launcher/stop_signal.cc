#include "launcher/stop_signal.h"

#include <csignal>

namespace trireme {

namespace {

volatile std::sig_atomic_t received_signal = 0;

void on_signal(int number) {
  if (received_signal != 0) {
    std::signal(number, SIG_DFL);
    std::raise(number);
    return;
  }
  received_signal = number;
}

struct sigaction former_term;
struct sigaction former_int;
struct sigaction former_usr1;

}  // namespace

StopSignal::StopSignal() {
  received_signal = 0;
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

int StopSignal::received() const { return received_signal; }

}  // namespace trireme
