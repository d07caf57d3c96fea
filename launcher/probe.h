// `trireme probe`: training steps on given tokens from given weights, and what came out of them, to compare with any
// other framework. The formats of the two files are in the README of launcher/.
#pragma once

#include <string>

#include "core/config/config.h"
#include "launcher/rank_context.h"

namespace trireme {

struct ProbeOptions {
  std::string hf_dir;  // config.json and safetensors
  std::string tokens;  // safetensors: input_ids, labels, optionally position_ids; I64 [steps, B, T]
  std::string out;     // safetensors, written by rank 0
  int64_t steps = 0;   // 0: as many as the file has
  bool logits = false;
};

// The configuration of a probe: the model of the directory and `sets` over the defaults (a constant learning rate);
// batch.global from the tokens file. Nothing keeps experts even unless `sets` say so.
Config probe_config(const ProbeOptions& options, const std::vector<std::string>& sets);

// Collective over the world.
void probe(RankContext& rank, const Config& config, const ProbeOptions& options);

}  // namespace trireme
