#include "core/metrics/metrics_log.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

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

void add_experts(nlohmann::ordered_json& row, const ExpertMetrics& m) {
  row["aux_loss"] = m.aux_loss;
  row["z_loss"] = m.z_loss;
  row["router_entropy"] = m.router_entropy;
  row["dropped_fraction"] = m.dropped_fraction;
  row["expert_imbalance"] = m.imbalance;
  int64_t num_loads = 0;
  for (const auto& layer : m.load) num_loads += std::ssize(layer);
  if (num_loads <= kMaxListedLoads) {
    row["expert_load"] = m.load;
    return;
  }
  for (const auto& layer : m.load) {
    const int64_t sum = std::accumulate(layer.begin(), layer.end(), int64_t{0});
    row["expert_load_max"].push_back(*std::max_element(layer.begin(), layer.end()));
    row["expert_load_mean"].push_back(static_cast<double>(sum) / static_cast<double>(layer.size()));
  }
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
  if (m.prediction_loss) row["prediction_loss"] = *m.prediction_loss;
  if (m.experts) add_experts(row, *m.experts);
  if (m.valid_loss) row["valid_loss"] = *m.valid_loss;
  return row.dump();
}

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t step) : file_(cut(path, step)) {}

void MetricsLog::append(const StepMetrics& metrics) { file_.append(metrics_json(metrics) + "\n"); }

}  // namespace trireme
