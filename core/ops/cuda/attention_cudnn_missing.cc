// In place of attention_cudnn.cc where cuDNN's C++ frontend is not there.
#include "core/ops/cuda/attention_cudnn.h"

namespace trireme::cuda {

namespace {
constexpr const char* kMissing = "this program was built without cuDNN";
}

std::string cudnn_attention_refusal(Stream&, const ops::AttentionShape&, DType, bool) { return kMissing; }
std::string cudnn_attention_refusal_of(const DescribedGpu&, const ops::AttentionShape&, DType, bool) {
  return kMissing;
}

bool cudnn_attention_forward(Stream&, const ops::AttentionShape&, const Tensor&, const Tensor&, Tensor&, Tensor&) {
  return false;
}

bool cudnn_attention_backward(Stream&, const ops::AttentionShape&, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, const Tensor&, Tensor&) {
  return false;
}

}  // namespace trireme::cuda
