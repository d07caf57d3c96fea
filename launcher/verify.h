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

  // Tokens chose other experts before the gradients that are compared, as rounding may make them do on one rank, too: these
  // differ by as much as they are large, and a right layout can hardly be told from a wrong one. In fp32 that is rare, and
  // another seed helps.
  bool is_blurred() const;
  double allowed() const { return exact ? kExactTolerance : 2 * rounding.worst_gradient() + 1e-3; }
  bool passed() const;
  // For the screen: the largest differences, every parameter with its own, worst first; what is to be done where they
  // don't say much.
  std::string str() const;

 private:
  std::string verdict() const;
};

// Runs a configuration that names every degree (see shrink) and its reference, ranks as threads: on GPUs where `run.device`
// allows and there is one for each rank, else on the CPU.
VerifyReport verify(Config config);

// For the screen: the model and the layout of such a configuration.
std::string describe_layout(const Config& config);

}  // namespace trireme
