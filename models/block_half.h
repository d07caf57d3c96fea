// One half of a transformer block: what stands behind a norm (attention, or feed-forward), and the residual sum, which its
// last product can make.
//
// A half keeps what its backward needs in a stash of its own (Stash::part). It does not keep its input, which the block
// has anyway and hands in again. Hidden states are [n, C], the rows of this rank (TensorGroup).
#pragma once

#include <vector>

#include "parallel/unit.h"

namespace trireme {

class BlockHalf {
 public:
  virtual ~BlockHalf() = default;

  // In the order in which they lie in their bucket.
  virtual void list_weights(std::vector<Weight*>& list) = 0;

  // normed [n, C] -> residual + half(normed) [n, C]. `residual` may be undefined (0).
  virtual Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                         Stash& stash) = 0;
  // dy [n, C], of the output, -> the gradient of `normed` [n, C].
  virtual Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) = 0;
  // Gradients of the weights; `normed` as in forward.
  virtual void backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) = 0;

  // Selective recomputation (unit.h).
  virtual void drop_recomputable(Stash& stash) = 0;
  virtual void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) = 0;
};

}  // namespace trireme
