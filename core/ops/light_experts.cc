#include "core/ops/light_experts.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_choices(const Stream& stream, std::string_view op, const Tensor& experts, const Tensor& weights,
                   const Tensor& mixes, const LightChoices& choices) {
  if (experts.defined() && experts.ndim() != 2) fail_argument(op, "experts", "is no matrix: " + experts.shape().str());
  check_tensor(stream, op, "experts", experts, DType::i32, experts.shape());
  check_tensor(stream, op, "weights", weights, DType::f32, experts.shape());
  if (choices.num_constant > 0) {
    check_tensor(stream, op, "mixes", mixes, DType::f32, {experts.dim(0), 2 * choices.num_constant});
  }
}

}  // namespace

void light_factors(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                   const LightChoices& choices, Tensor& x_factor, Tensor& vector_factors) {
  constexpr std::string_view kOp = "light_factors";
  check_choices(stream, kOp, experts, weights, mixes, choices);
  const int64_t n = experts.dim(0);
  check_tensor(stream, kOp, "x_factor", x_factor, DType::f32, {n});
  if (choices.num_constant > 0) {
    check_tensor(stream, kOp, "vector_factors", vector_factors, DType::f32, {n, choices.num_constant});
  }
  TRIREME_DISPATCH(stream, light_factors(stream, experts, weights, mixes, choices, x_factor, vector_factors));
}

void light_gradients(Stream& stream, const Tensor& experts, const Tensor& weights, const Tensor& mixes,
                     const Tensor& x_dots, const Tensor& vector_dots, const LightChoices& choices, Tensor& dweights,
                     Tensor& dlogits) {
  constexpr std::string_view kOp = "light_gradients";
  check_choices(stream, kOp, experts, weights, mixes, choices);
  const int64_t n = experts.dim(0);
  check_tensor(stream, kOp, "x_dots", x_dots, DType::f32, {n});
  check_tensor(stream, kOp, "dweights", dweights, DType::f32, experts.shape());
  if (choices.num_constant > 0) {
    check_tensor(stream, kOp, "vector_dots", vector_dots, DType::f32, {n, choices.num_constant});
    check_tensor(stream, kOp, "dlogits", dlogits, DType::f32, mixes.shape());
  }
  TRIREME_DISPATCH(stream,
                   light_gradients(stream, experts, weights, mixes, x_dots, vector_dots, choices, dweights, dlogits));
}

void add_light_rows(Stream& stream, const Tensor& x, const Tensor& x_factor, const Tensor& factors, const Tensor& table,
                    Tensor& y) {
  constexpr std::string_view kOp = "add_light_rows";
  check_float_matrix(stream, kOp, "x", x);
  check_tensor(stream, kOp, "x_factor", x_factor, DType::f32, {x.dim(0)});
  check_tensor(stream, kOp, "y", y, x.dtype(), x.shape());
  if (factors.defined()) {
    if (factors.ndim() != 2) fail_argument(kOp, "factors", "is no matrix: " + factors.shape().str());
    check_tensor(stream, kOp, "factors", factors, DType::f32, {x.dim(0), factors.dim(1)});
    check_tensor(stream, kOp, "table", table, DType::f32, {factors.dim(1), x.dim(1)});
  }
  TRIREME_DISPATCH(stream, add_light_rows(stream, x, x_factor, factors, table, y));
}

}  // namespace trireme::ops
