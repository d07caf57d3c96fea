// Which experts a token chooses: the decision of a router, behind one interface.
//
// Decisions of single tokens are made on the device. Those that couple tokens (capacity, BASE, expert choice) are made over
// exactly the tokens of one microbatch, wherever they lie: scores are gathered over the tensor group and copied to the host,
// and all its ranks decide alike (assignment.h).
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
  const Tensor& logits;     // f32 [n, E]
  const Tensor& scores;     // f32 [n, E]
  const Tensor& bias;       // f32 [E], added for the selection; may be undefined
};

struct Chosen {
  Tensor experts;           // i32 [n, K], -1: nothing
  Tensor wanted;            // the same before experts were found full; what loads and balance losses count
  int64_t num_dropped = 0;  // pairs of these rows that are in the second, not in the first
};

class Chooser {
 public:
  virtual ~Chooser() = default;
  // K is the same in every call.
  virtual Chosen choose(Stream& stream, const Choice& choice) const = 0;
};

// The K best: GShard, Mixtral, Switch, DeepSeek (with groups and bias).
std::unique_ptr<Chooser> make_top_k_chooser(const ExpertsConfig& experts);
// The same with `moe.capacity_factor`.
std::unique_ptr<Chooser> make_capacity_chooser(const MoeConfig& moe, const ExpertsConfig& experts);
// BASE: balanced while training, each token's best in an evaluation, where a token must not depend on later ones.
std::unique_ptr<Chooser> make_base_chooser(const ExpertsConfig& experts);
std::unique_ptr<Chooser> make_expert_choice_chooser(const MoeConfig& moe, const ExpertsConfig& experts);
// By the token's id; another table for each layer.
std::unique_ptr<Chooser> make_hash_chooser(const ExpertsConfig& experts, int64_t vocab_size, int64_t layer);
// The configured one. `layer`: among those with experts.
std::unique_ptr<Chooser> make_chooser(const MoeConfig& moe, const ModelConfig& model, int64_t layer);

}  // namespace trireme
