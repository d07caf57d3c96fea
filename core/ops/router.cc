#include "core/ops/router.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_matrix(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor, DType dtype) {
  if (tensor.defined() && tensor.ndim() != 2) fail_argument(op, name, "is no matrix: " + tensor.shape().str());
  check_tensor(stream, op, name, tensor, dtype, tensor.shape());
}

// experts [n, any number of slots].
void check_experts(const Stream& stream, std::string_view op, const Tensor& experts, int64_t tokens) {
  check_matrix(stream, op, "experts", experts, DType::i32);
  check_tensor(stream, op, "experts", experts, DType::i32, {tokens, experts.dim(1)});
}

// A table with a row for each stretch, among them those of `tokens` tokens.
void check_stretches(const Stream& stream, std::string_view op, std::string_view name, const Tensor& table, DType dtype,
                     int64_t tokens, int64_t choices, const TokenStretches& stretches) {
  check_matrix(stream, op, name, table, dtype);
  check_tensor(stream, op, name, table, dtype, {table.dim(0), choices});
  if (stretches.length < 1 || stretches.first_token < 0) fail_argument(op, name, "with stretches that are none");
  if (tokens > 0 && (stretches.first_token + tokens - 1) / stretches.length >= table.dim(0)) {
    fail_argument(op, name, "has fewer rows than there are stretches: " + table.shape().str());
  }
}

}  // namespace

void router_scores(Stream& stream, const Tensor& logits, Scoring scoring, Tensor& scores) {
  check_matrix(stream, "router_scores", "logits", logits, DType::f32);
  check_tensor(stream, "router_scores", "scores", scores, DType::f32, logits.shape());
  TRIREME_DISPATCH(stream, router_scores(stream, logits, scoring, scores));
}

void choose_top_k(Stream& stream, const Tensor& scores, const Tensor& bias, const TopKRule& rule, Tensor& experts) {
  constexpr std::string_view kOp = "choose_top_k";
  check_matrix(stream, kOp, "scores", scores, DType::f32);
  const int64_t choices = scores.dim(1);
  if (bias.defined()) check_tensor(stream, kOp, "bias", bias, DType::f32, {choices});
  if (rule.num_groups < 1 || choices % rule.num_groups != 0) fail_argument(kOp, "scores", "don't divide into groups");
  if (rule.groups_per_token < 1 || rule.groups_per_token > rule.num_groups) {
    fail_argument(kOp, "groups_per_token", "is " + std::to_string(rule.groups_per_token));
  }
  if (rule.top_k < 1 || rule.top_k > choices / rule.num_groups * rule.groups_per_token) {
    fail_argument(kOp, "top_k", "is " + std::to_string(rule.top_k));
  }
  check_tensor(stream, kOp, "experts", experts, DType::i32, {scores.dim(0), rule.top_k});
  TRIREME_DISPATCH(stream, choose_top_k(stream, scores, bias, rule, experts));
}

void route_weights(Stream& stream, const Tensor& scores, const Tensor& experts, const WeightRule& rule,
                   Tensor& weights) {
  check_matrix(stream, "route_weights", "scores", scores, DType::f32);
  check_experts(stream, "route_weights", experts, scores.dim(0));
  check_tensor(stream, "route_weights", "weights", weights, DType::f32, experts.shape());
  TRIREME_DISPATCH(stream, route_weights(stream, scores, experts, rule, weights));
}

void router_statistics(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring,
                       const Tensor& experts, const TokenStretches& stretches, Tensor& counts, Tensor& probabilities,
                       Tensor& sums) {
  constexpr std::string_view kOp = "router_statistics";
  check_matrix(stream, kOp, "scores", scores, DType::f32);
  const int64_t tokens = scores.dim(0);
  const int64_t choices = scores.dim(1);
  check_tensor(stream, kOp, "logits", logits, DType::f32, scores.shape());
  if (counts.defined()) {
    check_experts(stream, kOp, experts, tokens);
    check_stretches(stream, kOp, "counts", counts, DType::i64, tokens, choices, stretches);
  }
  if (probabilities.defined()) {
    check_stretches(stream, kOp, "probabilities", probabilities, DType::f64, tokens, choices, stretches);
  }
  if (sums.defined()) check_tensor(stream, kOp, "sums", sums, DType::f64, {2});
  if (tokens == 0) return;
  TRIREME_DISPATCH(stream,
                   router_statistics(stream, logits, scores, scoring, experts, stretches, counts, probabilities, sums));
}

void balance_loss(Stream& stream, const Tensor& counts, const Tensor& probabilities, const Tensor& emphasis,
                  double factor, Tensor& gradient, Tensor& loss) {
  constexpr std::string_view kOp = "balance_loss";
  check_matrix(stream, kOp, "probabilities", probabilities, DType::f64);
  const int64_t choices = probabilities.dim(1);
  check_matrix(stream, kOp, "counts", counts, DType::i64);
  if (counts.dim(0) != 1) check_tensor(stream, kOp, "counts", counts, DType::i64, probabilities.shape());
  check_tensor(stream, kOp, "counts", counts, DType::i64, {counts.dim(0), choices});
  if (emphasis.defined()) check_tensor(stream, kOp, "emphasis", emphasis, DType::f32, {choices});
  check_tensor(stream, kOp, "gradient", gradient, DType::f32, probabilities.shape());
  check_tensor(stream, kOp, "loss", loss, DType::f64, {1});
  TRIREME_DISPATCH(stream, balance_loss(stream, counts, probabilities, emphasis, factor, gradient, loss));
}

void router_backward(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring, const Tensor& experts,
                     const WeightRule& rule, const Tensor& dweights, const Tensor& balance_gradient,
                     const TokenStretches& stretches, float z_scale, Tensor& dlogits) {
  constexpr std::string_view kOp = "router_backward";
  check_matrix(stream, kOp, "logits", logits, DType::f32);
  check_tensor(stream, kOp, "scores", scores, DType::f32, logits.shape());
  check_experts(stream, kOp, experts, logits.dim(0));
  check_tensor(stream, kOp, "dweights", dweights, DType::f32, experts.shape());
  if (balance_gradient.defined()) {
    check_stretches(stream, kOp, "balance_gradient", balance_gradient, DType::f32, logits.dim(0), logits.dim(1),
                    stretches);
  }
  check_tensor(stream, kOp, "dlogits", dlogits, DType::f32, logits.shape());
  TRIREME_DISPATCH(stream, router_backward(stream, logits, scores, scoring, experts, rule, dweights, balance_gradient,
                                           stretches, z_scale, dlogits));
}

void update_balance_bias(Stream& stream, const Tensor& counts, float rate, const Tensor& non_finite, Tensor& bias) {
  check_tensor(stream, "update_balance_bias", "counts", counts, DType::i64, {counts.numel()});
  check_tensor(stream, "update_balance_bias", "non_finite", non_finite, DType::i32, {1});
  check_tensor(stream, "update_balance_bias", "bias", bias, DType::f32, {counts.numel()});
  TRIREME_DISPATCH(stream, update_balance_bias(stream, counts, rate, non_finite, bias));
}

}  // namespace trireme::ops
