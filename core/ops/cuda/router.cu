#include "core/ops/router.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/router_rows.h"
#include "core/ops/router_keys.h"

namespace trireme::cuda {

namespace {

using ops::Scoring;

constexpr int kRouterThreads = kRouterWarps * kWarp;

__device__ __forceinline__ int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
}

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % kWarp; }

__global__ void __launch_bounds__(kRouterThreads)
    softmax_rows(const float* logits, float* scores, int64_t rows, int64_t choices) {
  const int64_t row = row_of_warp();
  if (row >= rows) return;
  const int lane = lane_of_thread();
  const float* x = logits + row * choices;
  float* y = scores + row * choices;
  const float max = row_max(x, choices, lane);
  float sum = 0;
  for (int64_t i = lane; i < choices; i += kWarp) {
    const float e = math::exp_of_nonpositive(x[i] - max);
    y[i] = e;  // this lane reads it again
    sum += e;
  }
  const float factor = 1.0f / warp_sum(sum);
  for (int64_t i = lane; i < choices; i += kWarp) y[i] *= factor;
}

struct SigmoidScores {
  const float* logits;
  float* scores;

  template <int kN>
  __device__ void run(int64_t i) const {
    Floats<kN> x = load<kN>(logits + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) x.x[j] = math::sigmoid(x.x[j]).value;
    store<kN>(scores + i, x);
  }
};

struct Choice {
  const float* scores;
  const float* bias;  // or null
  int32_t* experts;
  int64_t rows;
  int64_t choices;
  ops::TopKRule rule;

  __device__ float value(int64_t row, int64_t choice) const {
    const float score = scores[row * choices + choice];
    return bias != nullptr ? score + bias[choice] : score;
  }
};

// The greatest of `keys` below `limit`. Lane i looks at the keys i, i + 32, …, which it has written itself.
__device__ uint64_t greatest_below(const uint64_t* keys, int64_t count, uint64_t limit, int lane) {
  uint64_t best = ops::kNoChoice;
  for (int64_t i = lane; i < count; i += kWarp) {
    if (keys[i] < limit && keys[i] > best) best = keys[i];
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, offset);
    if (other > best) best = other;
  }
  return best;
}

// Writes the keys of groups; returns the least of those that are looked at.
__device__ uint64_t choose_groups(const Choice& choice, int64_t row, uint64_t* keys, int lane) {
  const ops::TopKRule& rule = choice.rule;
  const int64_t members = choice.choices / rule.num_groups;
  for (int64_t g = lane; g < rule.num_groups; g += kWarp) {
    ops::BestTwo best{-INFINITY, -INFINITY};
    for (int64_t i = 0; i < members; ++i) ops::offer(best, choice.value(row, g * members + i));
    const bool one = rule.group_score == ops::GroupScoring::best || members < 2;
    keys[g] = ops::choice_key(one ? best.first : best.first + best.second, g);
  }
  uint64_t last = ~uint64_t{0};
  for (int64_t i = 0; i < rule.groups_per_token; ++i) last = greatest_below(keys, rule.num_groups, last, lane);
  __syncwarp();
  return last;
}

// Dynamic shared memory of a warp: E keys of choices, G of groups.
__global__ void __launch_bounds__(kRouterThreads) choose_rows(Choice choice) {
  const int64_t row = row_of_warp();
  if (row >= choice.rows) return;
  const int lane = lane_of_thread();
  const ops::TopKRule& rule = choice.rule;
  uint64_t* keys = dynamic_shared<uint64_t>() + threadIdx.x / kWarp * (choice.choices + rule.num_groups);
  uint64_t* groups = keys + choice.choices;
  const bool all = rule.groups_per_token == rule.num_groups;
  const uint64_t least = all ? 0 : choose_groups(choice, row, groups, lane);
  const int64_t members = choice.choices / rule.num_groups;
  for (int64_t e = lane; e < choice.choices; e += kWarp) {
    const bool looked_at = all || groups[e / members] >= least;
    keys[e] = looked_at ? ops::choice_key(choice.value(row, e), e) : ops::kNoChoice;
  }
  uint64_t last = ~uint64_t{0};
  for (int64_t k = 0; k < rule.top_k; ++k) {
    last = greatest_below(keys, choice.choices, last, lane);
    if (lane == 0) choice.experts[row * rule.top_k + k] = ops::index_of_key(last);
  }
}

struct Weights {
  const float* scores;
  const int32_t* experts;
  const float* dweights;  // of the backward pass
  float* weights;
  int64_t rows;
  int64_t choices;
  int64_t slots;
  ops::WeightRule rule;
};

// Σ of the scores that a token has chosen + 1e-20, or 1 where weights are not divided by that.
__device__ float divisor_of(const float* score, const int32_t* chosen, int64_t slots, bool normalize, int lane) {
  if (!normalize) return 1.0f;
  float sum = 0;
  for (int64_t k = lane; k < slots; k += kWarp) {
    if (chosen[k] >= 0) sum += score[chosen[k]];
  }
  return warp_sum(sum) + 1e-20f;
}

__global__ void __launch_bounds__(kRouterThreads) weight_rows(Weights args) {
  const int64_t row = row_of_warp();
  if (row >= args.rows) return;
  const int lane = lane_of_thread();
  const float* score = args.scores + row * args.choices;
  const int32_t* chosen = args.experts + row * args.slots;
  const float divisor = divisor_of(score, chosen, args.slots, args.rule.normalize, lane);
  for (int64_t k = lane; k < args.slots; k += kWarp) {
    const float weight = chosen[k] >= 0 ? args.rule.scaling * (score[chosen[k]] / divisor) : 0.0f;
    args.weights[row * args.slots + k] = weight;
  }
}

struct Backward {
  Weights weights;
  const float* logits;
  const float* balance;  // or null
  ops::TokenStretches stretches;
  float z_scale;
  Scoring scoring;
  float* dlogits;
};

// Lane i writes and reads the gradients i, i + 32, … of a token's scores; slots one after another, as two may name one.
// In fp64: weights that are divided by their sum depend on differences of scores alone, and where one is near 1, what
// is left of its gradient would be the rounding of fp32.
__device__ void add_weight_gradient(const Weights& args, int64_t row, float* gradient, int lane) {
  const float* score = args.scores + row * args.choices;
  const int32_t* chosen = args.experts + row * args.slots;
  const float* by_weight = args.dweights + row * args.slots;
  double inverse = 1;
  double mean = 0;
  if (args.rule.normalize) {
    double sum = 0;
    for (int64_t k = lane; k < args.slots; k += kWarp) {
      if (chosen[k] < 0) continue;
      const double s = score[chosen[k]];
      sum += s;
      mean += by_weight[k] * s;
    }
    inverse = 1 / (warp_sum(sum) + 1e-20);
    mean = warp_sum(mean) * inverse;
  }
  const double factor = args.rule.scaling * inverse;
  for (int64_t k = 0; k < args.slots; ++k) {
    const int32_t e = chosen[k];
    if (e >= 0 && e % kWarp == lane) gradient[e] += static_cast<float>((by_weight[k] - mean) * factor);
  }
}

__device__ void add_balance_gradient(const float* score, const float* by_p, int64_t choices, Scoring scoring,
                                     float* gradient, int lane) {
  float mean = 0;
  float factor = 1;
  if (scoring == Scoring::sigmoid) {
    factor = 1.0f / row_sum(score, choices, lane);
    for (int64_t e = lane; e < choices; e += kWarp) mean = std::fma(by_p[e], score[e], mean);
    mean = warp_sum(mean) * factor;
  }
  for (int64_t e = lane; e < choices; e += kWarp) gradient[e] += (by_p[e] - mean) * factor;
}

// Dynamic shared memory of a warp: E gradients.
__global__ void __launch_bounds__(kRouterThreads) backward_rows(Backward args) {
  const int64_t row = row_of_warp();
  const int64_t choices = args.weights.choices;
  if (row >= args.weights.rows) return;
  const int lane = lane_of_thread();
  float* gradient = dynamic_shared<float>() + threadIdx.x / kWarp * choices;
  const float* x = args.logits + row * choices;
  const float* s = args.weights.scores + row * choices;
  float* d = args.dlogits + row * choices;
  for (int64_t e = lane; e < choices; e += kWarp) gradient[e] = 0;
  add_weight_gradient(args.weights, row, gradient, lane);
  if (args.balance != nullptr) {
    const int64_t stretch = (args.stretches.first_token + row) / args.stretches.length;
    add_balance_gradient(s, args.balance + stretch * choices, choices, args.scoring, gradient, lane);
  }
  RowLogSumExp total{};
  float z = 0;
  if (args.z_scale != 0.0f) {
    total = row_log_sum_exp(x, choices, lane);
    z = 2.0f * args.z_scale * total.value();
  }
  if (args.scoring == Scoring::softmax) {
    float mean = 0;
    for (int64_t e = lane; e < choices; e += kWarp) mean = std::fma(s[e], gradient[e], mean);
    mean = warp_sum(mean);
    for (int64_t e = lane; e < choices; e += kWarp) d[e] = s[e] * ((gradient[e] - mean) + z);
    return;
  }
  const float z_of_exp = z * std::exp(-total.log_sum);
  for (int64_t e = lane; e < choices; e += kWarp) {
    const math::Sigmoid<float> sigmoid = math::sigmoid(x[e]);
    float sum = gradient[e] * (sigmoid.value * sigmoid.complement);
    if (args.z_scale != 0.0f) sum = std::fma(math::exp_of_nonpositive(x[e] - total.max), z_of_exp, sum);
    d[e] = sum;
  }
}

// Rows of a block, whose dynamic shared memory stays within what a kernel needn't ask for where one row's does.
int64_t warps_of_block(int64_t row_bytes) {
  return std::clamp<int64_t>(kDefaultSharedBytes / std::max<int64_t>(row_bytes, 1), 1, kRouterWarps);
}

template <class Args>
void launch_rows(Stream& stream, int64_t rows, int64_t row_bytes, void (*kernel)(Args), const Args& args) {
  const int64_t warps = warps_of_block(row_bytes);
  launch(stream, grid_size(ceil_div(rows, warps)), static_cast<unsigned>(warps * kWarp), warps * row_bytes, kernel,
         args);
}

Weights weights_of(const Tensor& scores, const Tensor& experts, const ops::WeightRule& rule) {
  return {.scores = scores.data<float>(),
          .experts = experts.data<int32_t>(),
          .dweights = nullptr,
          .weights = nullptr,
          .rows = scores.dim(0),
          .choices = scores.dim(1),
          .slots = experts.dim(1),
          .rule = rule};
}

}  // namespace

void router_scores(Stream& stream, const Tensor& logits, Scoring scoring, Tensor& scores) {
  const float* x = logits.data<float>();
  float* y = scores.data<float>();
  if (scoring == Scoring::sigmoid) {
    constexpr int kWidth = kVector<float>;
    const bool aligned = is_aligned<kWidth>(x) && is_aligned<kWidth>(y);
    return for_elements<kWidth>(stream, logits.numel(), aligned, SigmoidScores{x, y});
  }
  launch(stream, grid_size(ceil_div(logits.dim(0), kRouterWarps)), kRouterThreads, 0, softmax_rows, x, y, logits.dim(0),
         logits.dim(1));
}

void choose_top_k(Stream& stream, const Tensor& scores, const Tensor& bias, const ops::TopKRule& rule,
                  Tensor& experts) {
  const Choice choice{.scores = scores.data<float>(),
                      .bias = bias.defined() ? bias.data<float>() : nullptr,
                      .experts = experts.data<int32_t>(),
                      .rows = scores.dim(0),
                      .choices = scores.dim(1),
                      .rule = rule};
  const int64_t row_bytes = (choice.choices + rule.num_groups) * static_cast<int64_t>(sizeof(uint64_t));
  launch_rows(stream, choice.rows, row_bytes, choose_rows, choice);
}

void route_weights(Stream& stream, const Tensor& scores, const Tensor& experts, const ops::WeightRule& rule,
                   Tensor& weights) {
  Weights args = weights_of(scores, experts, rule);
  args.weights = weights.data<float>();
  launch_rows(stream, args.rows, 0, weight_rows, args);
}

void router_backward(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring, const Tensor& experts,
                     const ops::WeightRule& rule, const Tensor& dweights, const Tensor& balance_gradient,
                     const ops::TokenStretches& stretches, float z_scale, Tensor& dlogits) {
  Backward args{.weights = weights_of(scores, experts, rule),
                .logits = logits.data<float>(),
                .balance = balance_gradient.defined() ? balance_gradient.data<float>() : nullptr,
                .stretches = stretches,
                .z_scale = z_scale,
                .scoring = scoring,
                .dlogits = dlogits.data<float>()};
  args.weights.dweights = dweights.data<float>();
  launch_rows(stream, logits.dim(0), logits.dim(1) * static_cast<int64_t>(sizeof(float)), backward_rows, args);
}

}  // namespace trireme::cuda
