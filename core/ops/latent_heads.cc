#include "core/ops/latent_heads.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_heads(const Stream& stream, std::string_view op, const LatentHeads& heads, const Tensor& qkv,
                 const Tensor& q, const Tensor& kv, const Tensor& k_rope, const Tensor& positions,
                 const Tensor& table) {
  TRIREME_CHECK(heads.num_heads > 0 && heads.nope >= 0 && heads.rope > 0 && heads.rope % 2 == 0 && heads.v > 0);
  check_float_matrix(stream, op, "qkv", qkv);
  const int64_t rows = qkv.dim(0);
  check_tensor(stream, op, "qkv", qkv, qkv.dtype(), {rows, 3 * heads.num_heads * heads.width()});
  check_tensor(stream, op, "q", q, qkv.dtype(), {rows, heads.num_heads * heads.qk()});
  check_tensor(stream, op, "kv", kv, qkv.dtype(), {rows, heads.num_heads * (heads.nope + heads.v)});
  check_tensor(stream, op, "k_rope", k_rope, qkv.dtype(), {rows, heads.rope});
  check_tensor(stream, op, "positions", positions, DType::i32, {rows});
  if (!table.defined() || table.ndim() != 2) fail_argument(op, "table", "expected a matrix [positions, rope]");
  check_tensor(stream, op, "table", table, DType::f32, {table.dim(0), heads.rope});
}

}  // namespace

void pack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& q, const Tensor& kv,
                       const Tensor& k_rope, const Tensor& positions, const Tensor& table, Tensor& qkv) {
  check_heads(stream, "pack_latent_heads", heads, qkv, q, kv, k_rope, positions, table);
  TRIREME_DISPATCH(stream, pack_latent_heads(stream, heads, q, kv, k_rope, positions, table, qkv));
}

void unpack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& dqkv, const Tensor& positions,
                         const Tensor& table, Tensor& dq, Tensor& dkv, Tensor& dk_rope) {
  check_heads(stream, "unpack_latent_heads", heads, dqkv, dq, dkv, dk_rope, positions, table);
  TRIREME_DISPATCH(stream, unpack_latent_heads(stream, heads, dqkv, positions, table, dq, dkv, dk_rope));
}

void resize_heads(Stream& stream, const Tensor& x, int64_t num_heads, Tensor& y) {
  check_float_matrix(stream, "resize_heads", "x", x);
  check_float_matrix(stream, "resize_heads", "y", y);
  check_tensor(stream, "resize_heads", "y", y, x.dtype(), {x.dim(0), y.dim(1)});
  if (num_heads < 1 || x.dim(1) % num_heads != 0 || y.dim(1) % num_heads != 0) {
    fail_argument("resize_heads", "num_heads", "expected a divisor of both widths");
  }
  TRIREME_DISPATCH(stream, resize_heads(stream, x, num_heads, y));
}

}  // namespace trireme::ops
