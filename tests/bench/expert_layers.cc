// A layer with experts against a dense one of the same active FLOPs, and the ways of rows to their experts and back in few
// passes against one pass for each thing to do.
#include <cstdio>
#include <memory>
#include <numeric>

#include "core/ops/elementwise.h"
#include "core/ops/expert_rows.h"
#include "models/mlp.h"
#include "models/moe/moe_mlp.h"
#include "models/parameter_names.h"
#include "parallel/zero/weight_groups.h"
#include "tests/bench/expert_bench.h"

namespace trireme::bench {

namespace {

constexpr int64_t kSlots = 2;  // experts of a token

// A half of a block with memory for its weights and gradients.
class Layer {
 public:
  Layer(Stream& stream, DType dtype, std::unique_ptr<BlockHalf> half) : half_(std::move(half)) {
    const Mesh mesh({}, 0);
    std::vector<Weight*> weights;
    half_->list_weights(weights);
    for (Weight* weight : weights) {
      for (Parameter& part : weight->parts) part.place(mesh);
    }
    for (const std::vector<Weight*>& group : group_weights(weights, mesh)) {
      const Bucket::Options run{.compute = dtype};
      buckets_.push_back(
          std::make_unique<Bucket>(stream, "layer", group, bucket_options(run, group.front()->parts.front(), mesh)));
      buckets_.back()->initialize(stream, 1);
    }
  }

  // Forward and both halves of backward.
  void run(Stream& stream, const Microbatch& microbatch, const Tensor& x, const Tensor& dy) {
    for (const auto& bucket : buckets_) bucket->begin_step();
    Stash stash;
    half_->forward(stream, microbatch, x, /*residual=*/{}, stash);
    half_->backward_input(stream, microbatch, dy, stash);
    half_->backward_weight(stream, microbatch, x, stash);
  }

 private:
  std::unique_ptr<BlockHalf> half_;
  std::vector<std::unique_ptr<Bucket>> buckets_;
};

void bench_layer(Stream& stream, const ExpertOptions& options, DType dtype, int64_t hidden, int64_t ffn) {
  ModelConfig config{.family = ModelFamily::mixtral,
                     .hidden_size = hidden,
                     .num_layers = 1,
                     .ffn_size = kSlots * ffn,
                     .initializer_range = 0.05};
  config.experts.num_experts = options.experts;
  config.experts.top_k = kSlots;
  config.experts.ffn_size = ffn;
  const ParameterNames names(config.family, 0);
  const MoeSetup setup{.config = {.aux_loss_coef = 0.01}};
  Layer experts(stream, dtype, std::make_unique<MoeMlp>(config, names, 0, setup));
  Layer dense(stream, dtype, std::make_unique<Mlp>(config, names.mlp, config.ffn_size, TensorGroup{}));

  const int64_t num_tokens = options.rows / kSlots;
  const Tensor x = random_tensor(stream, dtype, {num_tokens, hidden}, 1);
  const Tensor dy = random_tensor(stream, dtype, {num_tokens, hidden}, 2);
  Microbatch microbatch;
  microbatch.batch = 1;
  microbatch.sequence = num_tokens;
  const auto times = take_turns(stream, options,
                                {[&](int64_t) { experts.run(stream, microbatch, x, dy); },
                                 [&](int64_t) { dense.run(stream, microbatch, x, dy); }});
  const double flops = 18.0 * static_cast<double>(num_tokens) * static_cast<double>(hidden * kSlots * ffn);
  std::printf("%-5s %5lld x %-6lld %8lld %14.1f %14.1f %10.2f\n", dtype_name(dtype).c_str(),
              static_cast<long long>(hidden), static_cast<long long>(ffn), static_cast<long long>(num_tokens),
              flops * 1e-9 / median(times[0]), flops * 1e-9 / median(times[1]), median_ratio(times[1], times[0]));
  std::fflush(stdout);
}

Tensor numbers(Stream& stream, int64_t n) {
  std::vector<int32_t> host(static_cast<size_t>(n));
  std::iota(host.begin(), host.end(), 0);
  Tensor x = Tensor::empty(stream, {n}, DType::i32);
  ops::copy_from_host(stream, host.data(), x);
  return x;
}

void bench_permutation(Stream& stream, const ExpertOptions& options, DType dtype, int64_t width) {
  const int64_t n = options.rows / kSlots;
  const int64_t pairs = n * kSlots;
  std::vector<int32_t> chosen(static_cast<size_t>(pairs));
  for (size_t i = 0; i < chosen.size(); ++i) {
    chosen[i] = static_cast<int32_t>((i * 7 + i / kSlots * 3) % static_cast<size_t>(options.experts));
  }
  Tensor experts = Tensor::empty(stream, {n, kSlots}, DType::i32);
  ops::copy_from_host(stream, chosen.data(), experts);
  Tensor counts = Tensor::empty(stream, {options.experts}, DType::i64);
  Tensor order = Tensor::empty(stream, {pairs}, DType::i32);
  Tensor position = Tensor::empty(stream, {n, kSlots}, DType::i32);
  ops::sort_by_expert(stream, experts, options.experts, counts, order, position);

  const Tensor x = random_tensor(stream, dtype, {n, width}, 1);
  const Tensor weights = random_tensor(stream, DType::f32, {pairs}, 2);
  const Tensor as_they_come = numbers(stream, pairs);
  const Tensor slots = as_they_come.view({n, kSlots});
  Tensor rows = Tensor::empty(stream, {pairs, width}, dtype);
  Tensor copies = Tensor::empty(stream, {pairs, width}, dtype);
  Tensor weighed = Tensor::empty(stream, {pairs, width}, dtype);
  Tensor y = Tensor::empty(stream, {n, width}, dtype);
  const auto times = take_turns(stream, options,
                                {[&](int64_t) {
                                   ops::gather_rows(stream, x, order, kSlots, rows);
                                   ops::sum_rows(stream, rows, position, y, /*accumulate=*/false);
                                 },
                                 [&](int64_t) {  // copy each token, sort; sort back, weigh, add
                                   ops::gather_rows(stream, x, as_they_come, kSlots, copies);
                                   ops::gather_rows(stream, copies, order, 1, rows);
                                   ops::gather_rows(stream, rows, position.view({pairs}), 1, copies);
                                   ops::fill(stream, weighed, 0);
                                   ops::add_scaled_rows(stream, copies, weights, weighed);
                                   ops::sum_rows(stream, weighed, slots, y, /*accumulate=*/false);
                                 }});
  std::printf("%-5s %8lld x %-6lld %12.3f %12.3f %10.2f\n", dtype_name(dtype).c_str(), static_cast<long long>(n),
              static_cast<long long>(width), 1e3 * median(times[0]), 1e3 * median(times[1]),
              median_ratio(times[1], times[0]));
  std::fflush(stdout);
}

}  // namespace

void bench_expert_layers(Stream& stream, const ExpertOptions& options) {
  std::printf("%lld experts of which a token meets %lld, against a dense layer of the same active FLOPs\n",
              static_cast<long long>(options.experts), static_cast<long long>(kSlots));
  std::printf("%-5s %-14s %8s %14s %14s %10s\n", "dtype", "hidden x ffn", "tokens", "GFLOP/s", "dense GFLOP/s",
              "ratio");
  for (const DType dtype : options.dtypes) {
    bench_layer(stream, options, dtype, 512, 704);
    bench_layer(stream, options, dtype, 1024, 1408);
  }
}

void bench_expert_permutation(Stream& stream, const ExpertOptions& options) {
  std::printf("rows to experts and back in two passes (weights go into the activation) against one for each thing\n");
  std::printf("%-5s %-17s %12s %12s %10s\n", "dtype", "tokens x hidden", "ms", "separate ms", "ratio");
  for (const DType dtype : options.dtypes) bench_permutation(stream, options, dtype, 1024);
}

}  // namespace trireme::bench
