// What a pipeline schedule makes a rank do: forward and backward of one microbatch through one chunk of the model. The
// executor calls it in the order of the rank's program; transfers between ranks are the executor's own.
//
// A chunk is a run of consecutive units of the model; chunk 0 begins with the embedding, the last one ends with the loss
// head. Chunks and microbatches count from 0. Hidden states [N, C] may have another number of rows on each rank of a
// tensor group, but never on two stages of one pipeline.
#pragma once

#include "core/device/device.h"
#include "core/tensor/tensor.h"

namespace trireme {

class PipelineWork {
 public:
  virtual ~PipelineWork() = default;

  // Uninitialised memory for the hidden states that enter `chunk`, or for their gradient (the same shape and dtype).
  virtual Tensor empty_hidden(Stream& stream, int chunk, int microbatch) = 0;

  // x: what the chunk before gave, undefined for chunk 0. Returns undefined from the last chunk. What backward needs is
  // kept, unless the pass is an evaluation.
  virtual Tensor forward(Stream& stream, int chunk, int microbatch, const Tensor& x) = 0;
  // Both halves of backward, unit by unit. dy: gradient of what forward returned, undefined for the last chunk. Returns
  // the gradient of x, undefined from chunk 0.
  virtual Tensor backward(Stream& stream, int chunk, int microbatch, const Tensor& dy) = 0;
  // The halves, for schedules that part them.
  virtual Tensor backward_input(Stream& stream, int chunk, int microbatch, const Tensor& dy) = 0;
  virtual void backward_weight(Stream& stream, int chunk, int microbatch) = 0;
};

}  // namespace trireme
