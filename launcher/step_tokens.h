// The tokens of some steps, given as a whole: what a probe reads from a file, and what comparisons of layouts make up.
#pragma once

#include <cstdint>
#include <vector>

#include "launcher/microbatch.h"
#include "parallel/mesh.h"

namespace trireme {

// All arrays i32 [steps, batch, sequence].
struct StepTokens {
  int64_t steps = 0;
  int64_t batch = 0;
  int64_t sequence = 0;
  bool has_documents = false;  // attention stays inside them
  std::vector<int32_t> tokens;
  std::vector<int32_t> labels;  // already shifted; -100 counts nothing
  std::vector<int32_t> positions;
  std::vector<int32_t> document_start;
};

// Those of one step for this rank, into `tokens`, which outlives them: microbatch j of data rank d holds the sequences
// (j·DP + d)·micro … of the step. ConfigError where the batch doesn't divide.
std::vector<HostMicrobatch> microbatches_of(const StepTokens& tokens, int64_t step, int64_t micro, const Mesh& mesh);

}  // namespace trireme
