#include "core/ops/rotary.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

void rotary(Stream& stream, Tensor& qkv, const Tensor& positions, const Tensor& table, int64_t num_rotated,
            int64_t head_dim, bool inverse) {
  TRIREME_CHECK(head_dim > 0 && head_dim % 2 == 0 && num_rotated >= 0, "rotary: heads have an even dim");
  check_float_matrix(stream, "rotary", "qkv", qkv);
  TRIREME_CHECK(num_rotated * head_dim <= qkv.dim(1), "rotary: more heads than a row holds");
  check_tensor(stream, "rotary", "positions", positions, DType::i32, {qkv.dim(0)});
  check_float_matrix(stream, "rotary", "table", table);
  check_tensor(stream, "rotary", "table", table, DType::f32, {table.dim(0), head_dim});
  TRIREME_DISPATCH(stream, rotary(stream, qkv, positions, table, num_rotated, head_dim, inverse));
}

}  // namespace trireme::ops
