// Training steps on ranks as threads for the tests of ZeRO: what each step computed, gathered from the shards of all ranks,
// and what each rank's memory and communication did meanwhile.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/device/allocator.h"
#include "launcher/rank_context.h"
#include "launcher/train_step.h"
#include "models/transformer.h"
#include "parallel/comm/flight_recorder.h"
#include "tests/unit/data_testing.h"

namespace trireme::testing {

using TensorValues = std::map<std::string, std::vector<float>>;

struct ZeroRun {
  std::string model = "llama";  // llama, tied (llama with one table) or gpt2
  int ranks = 1;
  int64_t global = 8;  // sequences of a step
  int64_t micro = 2;
  int64_t steps = 2;
  std::vector<std::string> sets = {};
  double delay_seconds = 0;  // of the results of collectives over data_shard
  bool evaluates = false;    // after each step
  bool collects = true;      // gradients, weights and states
};

struct ZeroResult {
  std::vector<double> losses;  // of each step
  std::vector<double> norms;
  std::vector<double> eval_losses;
  std::vector<TensorValues> gradients;                  // of each step, reduced
  TensorValues weights, first_moments, second_moments;  // at the end

  // Of each rank.
  std::vector<MemoryStats> memory;                 // behind the last step
  std::vector<std::vector<int64_t>> allocations;   // calls into the system, behind each step
  std::vector<std::vector<FlightRecord>> records;  // of the last step
  ModelMemory formula;                             // of every rank
  int64_t num_buckets = 0;
  int64_t elements = 0;        // of all buckets, with padding
  int64_t owned_elements = 0;  // of those with values of their own: without the second use of a tied table
  int64_t read_elements = 0;   // in a microbatch: each unit's once for forward, and for backward if that reads them
  std::vector<double> exposed_seconds;  // of the last step
  std::vector<double> step_seconds;     // of the last step

  bool same_bits(const ZeroResult& other) const {
    return losses == other.losses && norms == other.norms && eval_losses == other.eval_losses &&
           gradients == other.gradients && weights == other.weights && first_moments == other.first_moments &&
           second_moments == other.second_moments;
  }
};

ZeroResult run_zero(const TempDir& dir, const ZeroRun& run);

// Calls `body` on every rank with a model of that layout.
struct ZeroRank {
  const Config& config;
  RankContext& rank;
  Transformer& model;
  TrainStep& step;
};
void with_zero_ranks(const TempDir& dir, const ZeroRun& run, const std::function<void(ZeroRank)>& body);

// The largest ‖a − b‖ / max(‖b‖, 1e-4 · largest norm) over the tensors, and its name.
std::pair<double, std::string> largest_difference(const TensorValues& a, const TensorValues& b);

}  // namespace trireme::testing
