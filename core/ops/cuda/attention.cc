// cuDNN where it takes the call, else kernels of ours.
#include "core/ops/attention.h"

#include "core/ops/cuda/attention_cudnn.h"
#include "core/ops/cuda/attention_kernels.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

void attention_forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                       const Tensor& document_start, Tensor& out, Tensor& lse) {
  if (qkv.numel() == 0) return;
  if (cudnn_attention_forward(stream, shape, qkv, document_start, out, lse)) return;
  plain_attention_forward(stream, shape, qkv, document_start, out, lse);
}

void attention_backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                        const Tensor& document_start, const Tensor& out, const Tensor& lse, const Tensor& dout,
                        Tensor& dqkv) {
  if (qkv.numel() == 0) return;
  if (cudnn_attention_backward(stream, shape, qkv, document_start, out, lse, dout, dqkv)) return;
  plain_attention_backward(stream, shape, qkv, document_start, out, lse, dout, dqkv);
}

void describe_attention(Stream& stream, const ops::AttentionShape& shape, DType dtype, bool documents,
                        std::string& text) {
  const std::string refusal = cudnn_attention_refusal(stream, shape, dtype, documents);
  text = refusal.empty() ? "cuDNN" : "plain kernels (cuDNN: " + refusal + ")";
}

}  // namespace trireme::cuda
