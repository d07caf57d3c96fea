#include "tests/emulator/selftest/races.h"

#include <atomic>

namespace {

std::atomic<int> reports{0};

}  // namespace

extern "C" {

// Reports are demanded, so none fails the program, and nobody reads where they are.
const char* __tsan_default_options();
const char* __tsan_default_options() { return "exitcode=0:symbolize=0:suppress_equal_addresses=0"; }

void __tsan_on_report(void* report);
void __tsan_on_report(void*) { ++reports; }

}  // extern "C"

namespace emulator {

int num_reports() { return reports; }

}  // namespace emulator
