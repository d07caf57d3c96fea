// Training steps on ranks as threads for the tests of ZeRO: what each step computed, gathered from the shards of all ranks,
// and what each rank's memory and communication did meanwhile.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "core/device/allocator.h"
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
  bool collects = true;      // the gradients
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
  std::vector<int64_t> bucket_elements;            // with padding
  std::vector<double> exposed_seconds;             // of the last step
  std::vector<double> step_seconds;                // of the last step

  bool same_bits(const ZeroResult& other) const {
    return losses == other.losses && norms == other.norms && eval_losses == other.eval_losses &&
           gradients == other.gradients && weights == other.weights && first_moments == other.first_moments &&
           second_moments == other.second_moments;
  }
};

ZeroResult run_zero(const TempDir& dir, const ZeroRun& run);

// The largest ‖a − b‖ / max(‖b‖, 1e-4 · largest norm) over the tensors, and its name.
std::pair<double, std::string> largest_difference(const TensorValues& a, const TensorValues& b);

}  // namespace trireme::testing
