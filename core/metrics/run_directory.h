// The directory of a run and the files in it (README.md, "A run directory").
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace trireme {

enum class RunState { running, finished, stopped, failed };
std::string to_string(RunState state);

struct RunStatus {
  RunState state = RunState::running;
  int64_t step = 0;                   // last finished step
  std::string reason = {};            // why it stopped or failed
  std::optional<int> exit_code = {};  // none while it runs
  std::string layout = {};            // "data 2, tensor 1, …"
};

class RunDirectory {
 public:
  // Makes the directory and those in it where they are missing, and proves that files can be created there.
  // Throws MachineError (exit code 4) with the path otherwise. One rank calls it before the others use the paths.
  static RunDirectory create(const std::filesystem::path& path);

  // The paths only.
  explicit RunDirectory(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config_file() const { return path_ / "config.yaml"; }
  std::filesystem::path metrics_file() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path status_file() const { return path_ / "status.json"; }
  std::filesystem::path gemm_algorithms_file() const { return path_ / "gemm_algorithms.json"; }  // runs on GPUs
  std::filesystem::path log_file() const { return path_ / "log.txt"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path traces() const { return path_ / "traces"; }
  std::filesystem::path crash() const { return path_ / "crash"; }
  std::filesystem::path hang() const { return crash() / "hang"; }  // HangWatch

  // A file of its own in crash() for a rank that ends the run: `report` with time, host and process above it.
  void write_crash(int rank, const std::string& report) const;
  void write_config(const std::string& yaml) const;  // replaced by rename
  void write_status(const RunStatus& status) const;  // replaced by rename; adds host and pid

 private:
  std::filesystem::path path_;
};

std::string host_name();

}  // namespace trireme
