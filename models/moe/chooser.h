// Which experts a token chooses: the decision of a router, behind one interface.
//
// Decisions of single tokens are made on the device. Those that couple tokens (capacity, BASE, expert choice) are made over
// exactly the tokens of one microbatch, wherever they lie: scores are gathered over the tensor group, and all its ranks
// decide alike.
#pragma once

#include <memory>

#include "core/config/config.h"
#include "parallel/tensor_group.h"
#include "parallel/unit.h"

namespace trireme {

// What is known of the n rows of this rank; E choices.
struct Choice {
  const Microbatch& microbatch;
  const TensorGroup& rows;  // which of the microbatch's tokens they are; cut along the tokens
  const Tensor& scores;     // f32 [n, E]
  const Tensor& bias;       // f32 [E], added for the selection; may be undefined
};

class Chooser {
 public:
  virtual ~Chooser() = default;
  // i32 [n, K], -1: nothing. K is the same in every call.
  virtual Tensor choose(Stream& stream, const Choice& choice) const = 0;
};

// The K best: GShard, Mixtral, Switch, DeepSeek (with groups and bias).
std::unique_ptr<Chooser> make_top_k_chooser(const ExpertsConfig& experts);
// The configured one.
std::unique_ptr<Chooser> make_chooser(const MoeConfig& moe, const ExpertsConfig& experts);

}  // namespace trireme
