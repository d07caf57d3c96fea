#include "core/ops/expert_rows.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_indices(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor) {
  if (tensor.defined() && tensor.ndim() != 2) fail_argument(op, name, "is no matrix: " + tensor.shape().str());
  check_tensor(stream, op, name, tensor, DType::i32, tensor.shape());
  if (tensor.numel() > INT32_MAX) fail_argument(op, name, "has too many elements: " + tensor.shape().str());
}

}  // namespace

void sort_by_expert(Stream& stream, const Tensor& experts, int64_t num_experts, Tensor& counts, Tensor& order,
                    Tensor& position) {
  check_indices(stream, "sort_by_expert", "experts", experts);
  check_tensor(stream, "sort_by_expert", "counts", counts, DType::i64, {num_experts});
  check_tensor(stream, "sort_by_expert", "order", order, DType::i32, {experts.numel()});
  check_tensor(stream, "sort_by_expert", "position", position, DType::i32, experts.shape());
  TRIREME_DISPATCH(stream, sort_by_expert(stream, experts, num_experts, counts, order, position));
}

void gather_rows(Stream& stream, const Tensor& x, const Tensor& order, int64_t slots, Tensor& y) {
  check_float_matrix(stream, "gather_rows", "x", x);
  check_float_matrix(stream, "gather_rows", "y", y);
  check_tensor(stream, "gather_rows", "y", y, x.dtype(), {y.dim(0), x.dim(1)});
  check_tensor(stream, "gather_rows", "order", order, DType::i32, {order.numel()});
  if (order.numel() < y.dim(0)) fail_argument("gather_rows", "order", "is shorter than y: " + order.shape().str());
  if (slots < 1) fail_argument("gather_rows", "slots", "is " + std::to_string(slots));
  TRIREME_DISPATCH(stream, gather_rows(stream, x, order, slots, y));
}

void sum_rows(Stream& stream, const Tensor& rows, const Tensor& position, Tensor& y, bool accumulate) {
  check_float_matrix(stream, "sum_rows", "rows", rows);
  check_indices(stream, "sum_rows", "position", position);
  check_tensor(stream, "sum_rows", "y", y, rows.dtype(), {position.dim(0), rows.dim(1)});
  TRIREME_DISPATCH(stream, sum_rows(stream, rows, position, y, accumulate));
}

void shift_positions(Stream& stream, const Tensor& position, const Tensor& experts, const Tensor& shifts, Tensor& out) {
  check_indices(stream, "shift_positions", "position", position);
  check_indices(stream, "shift_positions", "shifts", shifts);
  check_tensor(stream, "shift_positions", "experts", experts, DType::i32, position.shape());
  check_tensor(stream, "shift_positions", "out", out, DType::i32, {position.dim(0), position.dim(1) * shifts.dim(0)});
  TRIREME_DISPATCH(stream, shift_positions(stream, position, experts, shifts, out));
}

void add_scaled_rows(Stream& stream, const Tensor& x, const Tensor& factor, Tensor& y) {
  check_float_matrix(stream, "add_scaled_rows", "x", x);
  check_tensor(stream, "add_scaled_rows", "factor", factor, DType::f32, {x.dim(0)});
  check_tensor(stream, "add_scaled_rows", "y", y, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, add_scaled_rows(stream, x, factor, y));
}

void row_dots(Stream& stream, const Tensor& a, const Tensor& b, Tensor& dots) {
  check_float_matrix(stream, "row_dots", "a", a);
  check_tensor(stream, "row_dots", "b", b, a.dtype(), a.shape());
  check_tensor(stream, "row_dots", "dots", dots, DType::f32, {a.dim(0)});
  TRIREME_DISPATCH(stream, row_dots(stream, a, b, dots));
}

void weighted_swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& weights, Tensor& y) {
  check_float_matrix(stream, "weighted_swiglu_forward", "y", y);
  check_tensor(stream, "weighted_swiglu_forward", "gate_up", gate_up, y.dtype(), {y.dim(0), 2 * y.dim(1)});
  check_tensor(stream, "weighted_swiglu_forward", "weights", weights, DType::f32, {y.dim(0)});
  TRIREME_DISPATCH(stream, weighted_swiglu_forward(stream, gate_up, weights, y));
}

void weighted_swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& weights,
                              Tensor& dgate_up, Tensor& dweights) {
  constexpr std::string_view kOp = "weighted_swiglu_backward";
  check_float_matrix(stream, kOp, "dy", dy);
  const Shape wide{dy.dim(0), 2 * dy.dim(1)};
  check_tensor(stream, kOp, "gate_up", gate_up, dy.dtype(), wide);
  check_tensor(stream, kOp, "weights", weights, DType::f32, {dy.dim(0)});
  check_tensor(stream, kOp, "dgate_up", dgate_up, dy.dtype(), wide);
  check_tensor(stream, kOp, "dweights", dweights, DType::f32, {dy.dim(0)});
  TRIREME_DISPATCH(stream, weighted_swiglu_backward(stream, dy, gate_up, weights, dgate_up, dweights));
}

}  // namespace trireme::ops
