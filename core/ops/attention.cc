#include "core/ops/attention.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_attention(const Stream& stream, std::string_view op, const AttentionShape& shape, const Tensor& qkv,
                     const Tensor& document_start, const Tensor& out, const Tensor& lse) {
  TRIREME_CHECK(shape.batch >= 0 && shape.sequence >= 0 && shape.head_dim > 0 && shape.scale > 0.0f);
  TRIREME_CHECK(shape.num_kv_heads > 0 && shape.num_heads > 0 && shape.num_heads % shape.num_kv_heads == 0,
                "query heads must be a multiple of key heads");
  const int64_t tokens = shape.batch * shape.sequence;
  const int64_t columns = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  check_float_matrix(stream, op, "qkv", qkv);
  check_tensor(stream, op, "qkv", qkv, qkv.dtype(), {tokens, columns});
  check_tensor(stream, op, "out", out, qkv.dtype(), {tokens, shape.num_heads * shape.head_dim});
  check_tensor(stream, op, "lse", lse, DType::f32, {shape.batch, shape.num_heads, shape.sequence});
  if (document_start.defined()) check_tensor(stream, op, "document_start", document_start, DType::i32, {tokens});
}

}  // namespace

void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
                       Tensor& out, Tensor& lse) {
  check_attention(stream, "attention_forward", shape, qkv, document_start, out, lse);
  TRIREME_DISPATCH(stream, attention_forward(stream, shape, qkv, document_start, out, lse));
}

void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
                        const Tensor& out, const Tensor& lse, const Tensor& dout, Tensor& dqkv) {
  check_attention(stream, "attention_backward", shape, qkv, document_start, out, lse);
  check_tensor(stream, "attention_backward", "dout", dout, out.dtype(), out.shape());
  check_tensor(stream, "attention_backward", "dqkv", dqkv, qkv.dtype(), qkv.shape());
  TRIREME_CHECK(dqkv.raw() != qkv.raw() || qkv.numel() == 0, "attention_backward: dqkv must not alias qkv");
  TRIREME_DISPATCH(stream, attention_backward(stream, shape, qkv, document_start, out, lse, dout, dqkv));
}

std::string describe_attention(Stream& stream, const AttentionShape& shape, DType dtype, bool documents) {
  std::string text;
  TRIREME_DISPATCH(stream, describe_attention(stream, shape, dtype, documents, text));
  return text;
}

}  // namespace trireme::ops
