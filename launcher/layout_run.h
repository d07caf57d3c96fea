// Some training steps of a configured layout with its ranks as threads of this process, on made-up tokens, and everything
// that came out: what `verify` and the tests of layouts compare with one rank.
#pragma once

#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/device/allocator.h"
#include "launcher/global_tensors.h"
#include "launcher/moe_step.h"
#include "launcher/routing_table.h"
#include "launcher/step_tokens.h"
#include "models/transformer.h"
#include "parallel/comm/flight_recorder.h"
#include "parallel/comm/thread_world.h"
#include "parallel/mesh.h"

namespace trireme {

// The tokens of some steps, the same whatever the layout. A tenth of the labels doesn't count, and from 4 sequences on all of
// one.
using LayoutInput = StepTokens;
LayoutInput make_layout_input(const Config& config, int64_t steps, uint64_t seed);

// Initial values, with N(0, 0.03) added to norms and biases as a pure function of (seed, name, element): they begin as
// constants, which hides what a wrong one would do.
void initialize_without_constants(Stream& stream, Transformer& model, uint64_t seed);

// The calls of one kind that a rank made in one step.
struct Traffic {
  CommOp op = CommOp::barrier;
  std::string group;
  int group_size = 1;
  int64_t calls = 0;
  int64_t bytes = 0;          // of all calls, as the flight recorder counts
  int64_t largest_bytes = 0;  // of one call
};

// What one rank was seen to do.
struct RankRecord {
  Mesh mesh = Mesh({}, 0);
  std::vector<std::vector<Traffic>> traffic;  // by step
  MemoryStats memory;                         // of the device, after the last step
  int64_t num_parameters = 0;
  int64_t num_buckets = 0;
  int64_t num_expert_layers = 0;  // of this rank's, modules of multi-token prediction among them
  int64_t value_elements = 0;     // of this rank's buckets, with padding
  int64_t gradient_elements = 0;  // likewise; a tied table has them twice where one rank uses it twice
};

struct LayoutResult {
  std::vector<double> loss;  // of each step
  std::vector<double> grad_norm;
  GlobalTensors initial;
  GlobalTensors gradients;  // of step 1, before clipping
  GlobalTensors weights;    // after the last step
  std::vector<RankRecord> ranks;
  RoutingTable routing;               // of models with experts
  std::vector<MoeNumbers> experts;    // likewise, of each step
  std::vector<std::string> findings;  // replicas that differ, elements that no rank holds
};

// Trains on num_ranks(config.parallel) ranks. Initial values come from the seed, none of them constant. The learning rate is
// that of the optimizer section, constant. REQUIRES: the configuration names every degree (shrink), the input is of its batch and sequence.
LayoutResult run_layout(const Config& config, const LayoutInput& input, const ThreadWorldOptions& world = {});

// The same model and batch on one rank, without ZeRO and recomputation: what layouts are compared with.
Config one_rank(const Config& config);

// The distance of a run from its reference.
struct LayoutComparison {
  double loss = 0;                     // largest relative difference of a step
  double grad_norm = 0;                // likewise
  std::vector<TensorError> gradients;  // worst first
  std::vector<TensorError> weights;    // worst first
  std::vector<std::string> unmoved;    // parameters with a gradient that did not move
  std::vector<std::string> findings;   // of the run
  std::vector<std::string> initial;    // parameters that begin with other values
  RoutingTable::Difference choices;    // of experts
  std::vector<std::string> experts;    // loads and losses of layers with experts that differ though choices don't

  double worst_gradient() const { return gradients.empty() ? 0 : gradients.front().error; }
  double worst_weight() const { return weights.empty() ? 0 : weights.front().error; }
  // All errors at most `tolerance`, everything moved, no findings.
  bool within(double tolerance) const;
};
// `config` of the run. What Adam's eps is larger than needn't have moved.
LayoutComparison compare(const LayoutResult& result, const LayoutResult& reference, const Config& config);

}  // namespace trireme
