// `trireme generate`: continues a prompt with a trained model.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/config/config.h"
#include "core/device/device.h"
#include "models/transformer.h"

namespace trireme {

struct GenerateOptions {
  std::string path;  // a checkpoint, a run directory (its newest checkpoint) or a Hugging Face directory
  std::string prompt;
  int64_t max_tokens = 200;
  double temperature = 1.0;  // 0: always the likeliest token
  int64_t top_k = 0;         // sample among the k likeliest; 0: among all
  uint64_t seed = 1234;
};

// Calls `emit` with each piece of text as it comes, the prompt not included; broken-off characters at the end are
// kept back.
void generate(Stream& stream, const GenerateOptions& options, const std::function<void(const std::string&)>& emit);

// The index that is drawn from logits [n] by temperature and top-k; `uniform` in [0, 1).
int64_t sample_token(const float* logits, int64_t n, double temperature, int64_t top_k, double uniform);

}  // namespace trireme
