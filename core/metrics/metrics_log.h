// metrics.jsonl: one JSON object for each logged step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/metrics/files.h"

namespace trireme {

// What a step says about the experts of a model, over the global batch.
struct ExpertMetrics {
  double imbalance = 0;         // greatest load of an expert over the mean, of the worst layer
  double dropped_fraction = 0;  // of the slots that chose an expert
  double router_entropy = 0;    // of a token's probabilities, mean over layers, nats
  double aux_loss = 0;          // the balance loss as it enters the gradient, coefficient included, sum over layers
  double z_loss = 0;            // likewise
  std::vector<std::vector<int64_t>> load = {};  // slots that chose each expert, by layer
};
// Rows name loads one by one up to so many of them, else the greatest and the mean of each layer.
inline constexpr int64_t kMaxListedLoads = 4096;

// What is known after a step. Losses are per token, in nats.
struct StepMetrics {
  int64_t step = 0;    // from 1
  double time = 0;     // seconds since 1970
  int64_t tokens = 0;  // consumed since step 1, this one included
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double step_seconds = 0;
  double tokens_per_second = 0;     // of all ranks
  double tflops_per_rank = 0;       // model FLOPs / 1e12 / second / rank
  double mfu = 0;                   // tflops_per_rank over the device's measured (CPU) or nominal (GPU) peak
  int64_t memory_bytes = 0;         // peak on this rank's device
  double exposed_comm_seconds = 0;  // of this step: communication that no compute hid
  double data_wait_seconds = 0;
  double bubble_seconds = 0;
  double checkpoint_seconds = 0;
  // Of models with multi-token prediction: mean over its modules, without its weight.
  std::optional<double> prediction_loss = {};
  std::optional<ExpertMetrics> experts = {};  // of models with experts
  std::optional<double> valid_loss = {};      // when this step was followed by an evaluation
};

std::string metrics_json(const StepMetrics& metrics);  // one line without its end; NaN and infinities become null

// Appends whole rows. Opening it for a run that continues after `step` first cuts the rows of later steps and a torn
// last row, so that no step stands twice; a new run passes 0 and begins with an empty file.
// One rank writes; not thread-safe. Throws MachineError when the file can't be written.
class MetricsLog {
 public:
  MetricsLog(const std::filesystem::path& path, int64_t step);
  void append(const StepMetrics& metrics);

 private:
  AppendFile file_;
};

}  // namespace trireme
