#include "core/metrics/run_directory.h"

#include <unistd.h>

#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/metrics/files.h"

namespace trireme {

std::string to_string(RunState state) {
  static constexpr std::array<const char*, 4> kNames = {"running", "finished", "stopped", "failed"};
  return kNames.at(static_cast<size_t>(state));
}

std::string host_name() {
  std::array<char, 256> name = {};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

RunDirectory RunDirectory::create(const std::filesystem::path& path) {
  const RunDirectory run(path);
  for (const auto& directory : {run.path(), run.tensorboard(), run.checkpoints()}) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (!error && !std::filesystem::is_directory(directory)) error = std::make_error_code(std::errc::not_a_directory);
    if (error) fail_file("can't create the run directory", directory, error.value());
  }
  const auto probe = run.path() / ".writable";
  try {
    replace_file(probe, "");
  } catch (const MachineError& error) {
    throw MachineError({.what = std::string("the run directory can't be written: ") + error.what()});
  }
  std::filesystem::remove(probe);
  return run;
}

void RunDirectory::write_config(const std::string& yaml) const { replace_file(config_file(), yaml); }

void RunDirectory::write_crash(int rank, const std::string& report) const {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 64> time{};
  std::strftime(time.data(), time.size(), "%Y-%m-%dT%H-%M-%SZ", &utc);
  std::error_code error;
  std::filesystem::create_directories(crash(), error);
  if (error) fail_file("can't create a directory", crash(), error.value());
  const std::string name = std::string(time.data()) + "-rank-" + std::to_string(rank) + ".txt";
  replace_file(crash() / name, std::string(time.data()) + ", rank " + std::to_string(rank) + ", host " + host_name() +
                                   ", process " + std::to_string(::getpid()) + "\n\n" + report);
}

void RunDirectory::write_status(const RunStatus& status) const {
  nlohmann::ordered_json json;
  json["state"] = to_string(status.state);
  json["step"] = status.step;
  json["reason"] = status.reason;
  json["exit_code"] = status.exit_code ? nlohmann::ordered_json(*status.exit_code) : nlohmann::ordered_json();
  json["layout"] = status.layout;
  json["host"] = host_name();
  json["pid"] = ::getpid();
  replace_file(status_file(), json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

}  // namespace trireme
