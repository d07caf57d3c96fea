#include "core/ops/embedding.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const VocabularyPart& part,
                       const Tensor& positions, const Tensor& position_table, Tensor& y) {
  check_float_matrix(stream, "embedding_forward", "y", y);
  check_tensor(stream, "embedding_forward", "tokens", tokens, DType::i32, {y.dim(0)});
  check_float_matrix(stream, "embedding_forward", "table", table);
  check_tensor(stream, "embedding_forward", "table", table, y.dtype(), {table.dim(0), y.dim(1)});
  check_part("embedding_forward", part, table.dim(0));
  if (position_table.defined()) {
    check_tensor(stream, "embedding_forward", "positions", positions, DType::i32, {y.dim(0)});
    check_float_matrix(stream, "embedding_forward", "position_table", position_table);
    check_tensor(stream, "embedding_forward", "position_table", position_table, y.dtype(),
                 {position_table.dim(0), y.dim(1)});
  }
  TRIREME_DISPATCH(stream, embedding_forward(stream, tokens, table, part, positions, position_table, y));
}

void embedding_backward(Stream& stream, const Tensor& ids, const VocabularyPart& part, const Tensor& dy, Tensor& dtable,
                        bool accumulate) {
  check_float_matrix(stream, "embedding_backward", "dy", dy);
  check_tensor(stream, "embedding_backward", "ids", ids, DType::i32, {dy.dim(0)});
  check_float_matrix(stream, "embedding_backward", "dtable", dtable);
  check_float(stream, "embedding_backward", "dtable", dtable, {dtable.dim(0), dy.dim(1)});
  check_part("embedding_backward", part, dtable.dim(0));
  TRIREME_DISPATCH(stream, embedding_backward(stream, ids, part, dy, dtable, accumulate));
}

}  // namespace trireme::ops
