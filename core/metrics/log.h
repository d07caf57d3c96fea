// The log of one rank: rank 0's messages on the console, and in the run's log.txt rank 0's messages and every rank's
// warnings and errors. Each rank makes its own Logger and hands it down; there is no global one. Thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "core/metrics/console.h"

namespace trireme {

class Logger {
 public:
  // `console` must outlive the logger; ranks other than 0 write nothing to it.
  Logger(int rank, Console& console);
  ~Logger();
  Logger(Logger&&) noexcept;

  // From here on messages also go to the end of this file, which all ranks may share. Throws MachineError.
  void open_file(const std::filesystem::path& path);

  void info(std::string_view text) const;
  void warn(std::string_view text) const;
  void error(std::string_view text) const;  // log.txt only: what ends a run is printed once, by the launcher

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trireme
