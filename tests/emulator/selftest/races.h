// Counts ThreadSanitizer's reports, so that a test can demand one.
#pragma once

namespace emulator {

int num_reports();

}  // namespace emulator
