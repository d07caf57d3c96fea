// A small model on ranks as threads that saves checkpoints: for tests of what happens to their files.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checkpoint/directory.h"
#include "checkpoint/saver.h"
#include "core/config/load.h"
#include "core/random/philox.h"
#include "launcher/rank_model.h"
#include "tests/thread_ranks.h"

namespace trireme::testing {

// Of a rank of the saving world.
struct SavingRank {
  RankContext& rank;
  RankModel& model;
  CheckpointSaver& saver;

  // The same on all ranks.
  void barrier() const { rank.world().barrier(rank.host_stream())->wait(rank.host_stream()); }

  // Weights and moments that are a function of the step alone.
  void set_state(int64_t step) const {
    model.model.initialize(rank.stream(), static_cast<uint64_t>(step));
    for (const Bucket::Buffer buffer : {Bucket::Buffer::first_moment, Bucket::Buffer::second_moment}) {
      const uint64_t key = random_key(static_cast<uint64_t>(step), buffer == Bucket::Buffer::first_moment ? "m" : "v");
      std::vector<float> values;
      for (const Parameter& parameter : model.state.parameters()) {
        values.resize(static_cast<size_t>(parameter.shape.numel()));
        for (size_t i = 0; i < values.size(); ++i) {
          values[i] = static_cast<float>(uniform_below(key, i, 1000)) + static_cast<float>(values.size()) * 1e-3f;
        }
        model.state.write(parameter, buffer, values.data());
      }
    }
  }

  // Saves the state of this step; what went wrong, or nothing. Collective.
  std::string save(int64_t step) const {
    set_state(step);
    saver.begin({.step = step, .consumed_samples = step * 8, .seed = 1, .layout = "of a test", .config_yaml = "a: 1"},
                rank.stream());
    return saver.settle();
  }
};

// Runs `body` on each of `ranks` ranks. The model is that of the configuration.
inline void run_saving_ranks(const Config& config, int ranks, const CheckpointSaver::Options& options,
                             const std::function<void(const SavingRank&)>& body) {
  run_rank_contexts(config, ranks, [&](RankContext& rank) {
    RankModel model(rank, config);
    CheckpointSaver saver(model.model.buckets(), rank.mesh(), rank.world(), rank.host_stream(), rank.copy_stream(),
                          options);
    body({rank, model, saver});
  });
}

}  // namespace trireme::testing
