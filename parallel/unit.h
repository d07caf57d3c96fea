// A unit: a layer or a group of them that is gathered, run and freed together; what the stage runner loops over.
//
// Backward is explicit and comes in two halves: `backward_input` must run in the reverse order of units,
// `backward_weight` may run any time after it, in microbatch order. Between them the stash carries what the second
// half needs.
#pragma once

#include <string>
#include <vector>

#include "core/device/device.h"
#include "parallel/parameter.h"
#include "parallel/stash.h"

namespace trireme {

// One microbatch of one data rank: N = batch·sequence tokens, sequence by sequence. Tensors i32 [N] on the device.
struct Microbatch {
  int64_t batch = 0;
  int64_t sequence = 0;
  Tensor tokens;
  Tensor labels;          // already shifted: what each position must predict; -100 counts nothing
  Tensor positions;       // inside the document
  Tensor document_start;  // first visible position of each token's sequence; undefined: 0

  // For losses that are means over microbatches (experts): what of a step's mean this one is, 1 / (microbatches of the
  // global batch); how many data ranks run one beside it; how many of the step there were on this rank with this one.
  double share = 1;
  int64_t data_degree = 1;
  int64_t num_so_far = 1;

  bool with_gradients = true;  // false in evaluation: forward only
  Tensor grad_scale;           // f32 [1], of each token's loss: 1 / (valid tokens of the global batch); with gradients
  Tensor loss_sum;             // f64 [1]; the loss head adds the sum of its tokens' losses, unscaled
  // f32 [N, rows of the head's table on this rank]; where defined, the loss head leaves its logits there.
  Tensor logits;

  // Multi-token prediction, where gradients are made. For module k = 1, 2, … of each position i of a sequence: t_{i+k},
  // whose embedding it is told, and t_{i+k+1}, its label. -100, and token 0, where i + k lies behind the sequence's end or,
  // where attention is masked, in another document.
  struct Ahead {
    Tensor tokens;
    Tensor labels;
  };
  std::vector<Ahead> ahead;
  Tensor prediction_loss_sum;  // f64 [1]; as loss_sum, of all modules

  int64_t num_tokens() const { return batch * sequence; }
};

class Unit {
 public:
  virtual ~Unit() = default;

  virtual const std::string& name() const = 0;
  // In the order in which they lie in their bucket. Tied weights are listed by each unit that uses them.
  virtual std::vector<Weight*> weights() = 0;

  // x [N, C] (undefined for the first unit) -> y [N, C] (undefined for the loss head).
  virtual Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) = 0;
  // dy [N, C] -> dx [N, C]; undefined where there is no such tensor.
  virtual Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) = 0;
  // Writes or adds the gradients of `weights()` (Weight::accumulate_gradient), and leaves the stash empty.
  virtual void backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) = 0;

  // Whether `forward` makes the gradients of the weights already and the halves of backward touch neither them nor the
  // weights' values (the loss head).
  virtual bool gradients_in_forward() const { return false; }
  // Whether backward, recomputation included, reads the values of the weights.
  virtual bool reads_values_in_backward() const { return !gradients_in_forward(); }

  // Selective recomputation: outputs of norms and activation functions are dropped after forward and made again before
  // backward_input, with the same bits.
  virtual void drop_recomputable(Stash&) {}
  virtual void recompute(Stream&, const Microbatch&, Stash&) {}
};

}  // namespace trireme
