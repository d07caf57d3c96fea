// `trireme verify`: the configured layout, shrunken, against one rank.
#pragma once

#include <string>
#include <vector>

#include "core/config/config.h"
#include "launcher/layout_run.h"

namespace trireme {

inline constexpr double kExactTolerance = 1e-5;  // of fp32
inline constexpr int64_t kVerifySteps = 2;

struct VerifyReport {
  bool exact = true;        // fp32 throughout: everything must agree to kExactTolerance
  LayoutComparison layout;  // against one rank in fp32
  // Where not exact: one rank in the precision of the run against one in fp32. The gradients of the layout may be twice as
  // wrong, plus 1e-3.
  LayoutComparison rounding;
  std::vector<RankRecord> ranks;  // of the layout

  double allowed() const { return exact ? kExactTolerance : 2 * rounding.worst_gradient() + 1e-3; }
  bool passed() const;
  // For the screen: the largest differences, every parameter with its own, worst first.
  std::string str() const;
};

// Runs a configuration that names every degree (see shrink) and its reference, ranks as threads: on GPUs where `run.device`
// allows and there is one for each rank, else on the CPU.
VerifyReport verify(Config config);

// For the screen: the model and the layout of such a configuration.
std::string describe_layout(const Config& config);

}  // namespace trireme
