#include "core/ops/grouped_linear.h"

#include <algorithm>

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

// `rows` [R, columns] cut by offsets, which also say how many matrices [weight_rows / G, …] there are.
void check_groups(std::string_view op, RowOffsets offsets, int64_t num_rows, int64_t weight_rows, int64_t out) {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != num_rows ||
      !std::is_sorted(offsets.begin(), offsets.end())) {
    fail_argument(op, "offsets", "must ascend from 0 to the number of rows");
  }
  const int64_t num_groups = static_cast<int64_t>(offsets.size()) - 1;
  if (weight_rows != num_groups * out) fail_argument(op, "weight", "must have as many rows as all groups' outputs");
}

}  // namespace

void grouped_linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, RowOffsets offsets, Tensor& y) {
  constexpr std::string_view kOp = "grouped_linear_forward";
  check_float_matrix(stream, kOp, "x", x);
  check_float_matrix(stream, kOp, "y", y);
  check_tensor(stream, kOp, "weight", weight, x.dtype(), {weight.dim(0), x.dim(1)});
  check_tensor(stream, kOp, "y", y, x.dtype(), {x.dim(0), y.dim(1)});
  check_groups(kOp, offsets, x.dim(0), weight.dim(0), y.dim(1));
  TRIREME_DISPATCH(stream, grouped_linear_forward(stream, x, weight, offsets, y));
}

void grouped_linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, RowOffsets offsets,
                                   Tensor& dx) {
  constexpr std::string_view kOp = "grouped_linear_backward_input";
  check_float_matrix(stream, kOp, "dy", dy);
  check_float_matrix(stream, kOp, "weight", weight);
  check_tensor(stream, kOp, "weight", weight, dy.dtype(), weight.shape());
  check_tensor(stream, kOp, "dx", dx, dy.dtype(), {dy.dim(0), weight.dim(1)});
  check_groups(kOp, offsets, dy.dim(0), weight.dim(0), dy.dim(1));
  TRIREME_DISPATCH(stream, grouped_linear_backward_input(stream, dy, weight, offsets, dx));
}

void grouped_linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, RowOffsets offsets,
                                    Tensor& dweight, bool accumulate) {
  constexpr std::string_view kOp = "grouped_linear_backward_weight";
  check_float_matrix(stream, kOp, "dy", dy);
  check_float_matrix(stream, kOp, "x", x);
  check_tensor(stream, kOp, "x", x, dy.dtype(), {dy.dim(0), x.dim(1)});
  check_float_matrix(stream, kOp, "dweight", dweight);
  check_float(stream, kOp, "dweight", dweight, {dweight.dim(0), x.dim(1)});
  check_groups(kOp, offsets, dy.dim(0), dweight.dim(0), dy.dim(1));
  TRIREME_DISPATCH(stream, grouped_linear_backward_weight(stream, dy, x, offsets, dweight, accumulate));
}

}  // namespace trireme::ops
