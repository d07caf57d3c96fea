// In place of attention_cudnn.cc where cuDNN's C++ frontend is not there.
#include "core/ops/cuda/attention_cudnn.h"

namespace trireme::cuda {

std::string cudnn_attention_refusal(Stream&, const ops::AttentionShape&, DType, bool) {
  return "this program was built without cuDNN";
}

bool cudnn_attention_forward(Stream&, const ops::AttentionShape&, const Tensor&, Tensor&, Tensor&) { return false; }

bool cudnn_attention_backward(Stream&, const ops::AttentionShape&, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, Tensor&) {
  return false;
}

}  // namespace trireme::cuda
