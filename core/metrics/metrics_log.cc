#include "core/metrics/metrics_log.h"

#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>

namespace trireme {

namespace {

// The size of the leading rows that belong to steps up to `step`.
uintmax_t bytes_up_to(const std::filesystem::path& path, int64_t step) {
  std::ifstream file(path, std::ios::binary);
  uintmax_t keep = 0;
  for (std::string line; std::getline(file, line) && !file.eof();) {
    const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool whole = row.is_object() && row.contains("step") && row["step"].is_number_integer();
    if (!whole || row["step"].get<int64_t>() > step) break;
    keep += line.size() + 1;
  }
  return keep;
}

// Cuts the file before it is opened for appending.
const std::filesystem::path& cut(const std::filesystem::path& path, int64_t step) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return path;
  const uintmax_t keep = bytes_up_to(path, step);
  if (keep < std::filesystem::file_size(path, error)) std::filesystem::resize_file(path, keep, error);
  if (error) fail_file("can't cut the rows after step " + std::to_string(step), path, error.value());
  return path;
}

}  // namespace

std::string metrics_json(const StepMetrics& m) {
  nlohmann::ordered_json row;  // dump() writes the shortest text of a double, and null for NaN
  row["step"] = m.step;
  row["time"] = m.time;
  row["tokens"] = m.tokens;
  row["loss"] = m.loss;
  row["lr"] = m.lr;
  row["grad_norm"] = m.grad_norm;
  row["step_seconds"] = m.step_seconds;
  row["tokens_per_second"] = m.tokens_per_second;
  row["tflops_per_rank"] = m.tflops_per_rank;
  row["mfu"] = m.mfu;
  row["memory_bytes"] = m.memory_bytes;
  row["exposed_comm_seconds"] = m.exposed_comm_seconds;
  row["data_wait_seconds"] = m.data_wait_seconds;
  row["bubble_seconds"] = m.bubble_seconds;
  row["checkpoint_seconds"] = m.checkpoint_seconds;
  if (m.valid_loss) row["valid_loss"] = *m.valid_loss;
  return row.dump();
}

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t step) : file_(cut(path, step)) {}

void MetricsLog::append(const StepMetrics& metrics) { file_.append(metrics_json(metrics) + "\n"); }

}  // namespace trireme
