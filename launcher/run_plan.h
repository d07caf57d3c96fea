// The resolved plan of a run: everything that follows from the configuration, the number of ranks and the data, known
// before the first allocation. `train` prints it, `--dry-run` stops after it.
#pragma once

#include <cstdint>
#include <string>

#include "core/config/config.h"
#include "core/tensor/dtype.h"
#include "launcher/memory_plan.h"
#include "launcher/precision.h"
#include "launcher/rank_device.h"
#include "parallel/mesh.h"

namespace trireme {

struct RunPlan {
  std::string model;  // "llama, 4 layers, hidden 192, …"
  std::string layout;
  std::string pipeline;  // empty: one stage
  std::string zero;      // empty: one data rank
  std::string device;    // "cpu (avx2 …), 2 threads per rank"
  Precision precision;
  int64_t num_parameters = 0;
  int64_t num_active = 0;        // of them those that a token meets
  int64_t num_microbatches = 0;  // of each data rank at the full batch
  int64_t tokens_per_step = 0;
  int64_t total_tokens = 0;    // of the run, ramp-up not considered
  int64_t train_tokens = 0;    // of the data set
  double flops_per_token = 0;  // models/transformer.h, model_flops_per_token
  StageMemory memory;          // of a rank of the fullest pipeline stage

  std::string str() const;  // a table for the screen
};

RunPlan make_run_plan(const Config& config, const Mesh& mesh, const RankDevice& device, int64_t train_tokens,
                      int threads);

}  // namespace trireme
