#include "tests/parallel/zero_runs.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "launcher/rank_model.h"
#include "parallel/zero/unit_buckets.h"
#include "tests/run_devices.h"
#include "tests/training.h"

namespace trireme::testing {

namespace {

constexpr int64_t kSequence = 19;
constexpr int64_t kVocab = 67;

std::string model_yaml(const std::string& kind) {
  if (kind == "gpt2") {
    return "model: {model_type: gpt2, n_embd: 24, n_layer: 2, n_head: 3, vocab_size: 67, n_positions: 32}\n";
  }
  return std::string(
             "model: {model_type: llama, hidden_size: 24, num_hidden_layers: 3, num_attention_heads: 3, "
             "num_key_value_heads: 1, intermediate_size: 40, vocab_size: 67, max_position_embeddings: 32") +
         (kind == "tied" ? ", tie_word_embeddings: true" : "") + "}\n";
}

Config config_of(const TempDir& dir, const ZeroRun& run) {
  // GPUs where there is one for each rank.
  const std::string device = most_ranks(run.ranks) == run.ranks ? "auto" : "cpu";
  const std::string text =
      "run: {dir: \"" + (dir / "run") + "\", steps: 10, threads: 1, device: " + device + "}\n" + model_yaml(run.model) +
      "data: {train: [{path: none}], sequence_length: " + std::to_string(kSequence) +
      "}\nbatch: {global: " + std::to_string(run.global) + ", micro: " + std::to_string(run.micro) +
      "}\noptimizer: {lr: 1.0e-3, eps: 1.0e-5, clip_grad_norm: 0.5, weight_decay: 0.1, schedule: "
      "{type: constant}}\nprecision: {compute: fp32}\n";
  return parse_config(text, "test", run.sets);
}

// The sequences of a step, the same whatever the layout, a few labels ignored.
struct Sequences {
  std::vector<int32_t> tokens, labels, positions;

  Sequences(int64_t step, int64_t global) {
    const uint64_t key = random_key(5, "step " + std::to_string(step));
    const auto n = static_cast<uint64_t>(global * kSequence);
    for (uint64_t i = 0; i < n; ++i) {
      tokens.push_back(static_cast<int32_t>(uniform_below(key, 3 * i, kVocab)));
      const bool ignored = uniform_below(key, 3 * i + 1, 10) == 0;
      labels.push_back(ignored ? -100 : static_cast<int32_t>(uniform_below(key, 3 * i + 2, kVocab)));
      positions.push_back(static_cast<int32_t>(i % static_cast<uint64_t>(kSequence)));
    }
  }

  std::vector<HostMicrobatch> microbatches(int64_t micro, const Mesh& mesh) const {
    std::vector<HostMicrobatch> list;
    const int64_t global = std::ssize(tokens) / kSequence;
    for (int64_t first = mesh.data_rank() * micro; first < global; first += mesh.data_degree() * micro) {
      const int64_t offset = first * kSequence;
      list.push_back(
          {micro, kSequence, tokens.data() + offset, labels.data() + offset, positions.data() + offset, nullptr});
    }
    return list;
  }
};

// Every parameter from the shards of all ranks. Elements that several ranks hold must be the same on all of them.
TensorValues collect(RankContext& rank, const Transformer& model, Bucket::Buffer kind) {
  TensorValues all;
  Stream& host = rank.host_stream();
  std::map<std::string, ParameterRef> held;
  for (const ParameterRef& ref : model.parameters()) held[ref.parameter->name] = ref;
  for (const Parameter& parameter : model_parameters(model.config())) {
    if (!Bucket::belongs(parameter, kind)) continue;
    const auto n = static_cast<size_t>(parameter.shape.numel());
    constexpr float kAbsent = -1e30f;
    std::vector<float> values(n, kAbsent);
    if (const auto found = held.find(parameter.name); found != held.end()) {
      found->second.bucket->read(rank.stream(), *found->second.parameter, kind, values.data());
    }
    std::vector<float> low(values);
    for (float& x : low) x = x == kAbsent ? -kAbsent : x;
    const Shape shape{std::ssize(values)};
    rank.world().all_reduce(Tensor::borrow(values.data(), shape, DType::f32), ReduceOp::max, host)->wait(host);
    rank.world().all_reduce(Tensor::borrow(low.data(), shape, DType::f32), ReduceOp::min, host)->wait(host);
    EXPECT_EQ(values, low) << parameter.name << ": ranks differ, or nobody has some elements";
    all[parameter.name] = std::move(values);
  }
  return all;
}

// Weights away from their initial symmetry, by element number: the same in every layout.
void perturb(Transformer& model, Stream& stream) {
  for (const ParameterRef& ref : model.parameters()) {
    if (ref.parameter->decays()) continue;
    std::vector<float> values(static_cast<size_t>(ref.parameter->shape.numel()));
    const uint64_t key = random_key(11, ref.parameter->name);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(ref.parameter->init.value + 0.03 * normal_at(key, i));
    }
    ref.bucket->write(stream, *ref.parameter, Bucket::Buffer::master, values.data());
  }
}

void run_steps(ZeroRank on, const ZeroRun& run, ZeroResult& result) {
  RankContext& rank = on.rank;
  const Transformer& model = on.model;
  TrainStep& step = on.step;
  const auto at = static_cast<size_t>(rank.rank());
  const bool first = rank.rank() == 0;
  for (int64_t s = 0; s < run.steps; ++s) {
    const Sequences sequences(s, run.global);
    const std::vector<HostMicrobatch> microbatches = sequences.microbatches(run.micro, rank.mesh());
    rank.recorder().clear();
    const auto begin = std::chrono::steady_clock::now();
    step.forward_backward(microbatches);
    TensorValues gradients;
    if (run.collects) gradients = collect(rank, model, Bucket::Buffer::gradient);
    step.update(1e-3, s + 1);
    const StepNumbers numbers = step.take_numbers();
    result.records[at] = rank.recorder().records();
    result.step_seconds[at] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    result.exposed_seconds[at] = numbers.exposed_comm_seconds;
    const double evaluated = run.evaluates ? step.evaluate(microbatches) : 0;
    result.memory[at] = rank.allocator().stats();
    result.allocations[at].push_back(result.memory[at].system_allocations);
    if (!first) continue;
    result.losses.push_back(numbers.loss);
    result.norms.push_back(numbers.grad_norm);
    result.eval_losses.push_back(evaluated);
    result.gradients.push_back(std::move(gradients));
  }
  TensorValues weights, m, v;
  if (run.collects) {
    weights = collect(rank, model, Bucket::Buffer::master);
    m = collect(rank, model, Bucket::Buffer::first_moment);
    v = collect(rank, model, Bucket::Buffer::second_moment);
  }
  if (!first) return;
  result.weights = std::move(weights);
  result.first_moments = std::move(m);
  result.second_moments = std::move(v);
  const std::vector<Bucket*> buckets = model.buckets();
  const std::vector<Unit*> units = model.units();
  result.formula = model_memory(on.config.model, model.place(), model_options(on.config, rank.stream().device()));
  result.num_buckets = std::ssize(buckets);
  for (const Bucket* bucket : buckets) {
    result.elements += bucket->numel();
    result.owned_elements += bucket->values_of() == nullptr ? bucket->numel() : 0;
  }
  const auto used = buckets_of_units(units, buckets);
  for (size_t u = 0; u < units.size(); ++u) {
    for (const size_t b : used[u])
      result.read_elements += buckets[b]->numel() * (units[u]->reads_values_in_backward() ? 2 : 1);
  }
}

double norm_of(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

}  // namespace

void with_zero_ranks(const TempDir& dir, const ZeroRun& run, const std::function<void(ZeroRank)>& body) {
  const Config config = config_of(dir, run);
  ThreadWorldOptions options;
  if (run.delay_seconds > 0) {
    options.delay_seconds = [&](const std::string& group, const CommCall&) {
      return group == "data_shard" ? run.delay_seconds : 0.0;
    };
  }
  const auto on_rank = [&](Communicator& world) {
    RankContext rank(config, world, LocalPlace{world.rank(), run.ranks});
    RankModel on(rank, config);
    on.model.initialize(rank.stream(), static_cast<uint64_t>(config.run.seed));
    perturb(on.model, rank.stream());
    body({config, rank, on.model, on.step});
  };
  run_thread_ranks(run.ranks, on_rank, options);
}

ZeroResult run_zero(const TempDir& dir, const ZeroRun& run) {
  const auto n = static_cast<size_t>(run.ranks);
  ZeroResult result;
  result.memory.resize(n);
  result.allocations.resize(n);
  result.records.resize(n);
  result.exposed_seconds.resize(n);
  result.step_seconds.resize(n);
  with_zero_ranks(dir, run, [&](ZeroRank rank) { run_steps(rank, run, result); });
  return result;
}

std::pair<double, std::string> largest_difference(const TensorValues& a, const TensorValues& b) {
  double largest_norm = 0;
  for (const auto& [name, values] : b) largest_norm = std::max(largest_norm, norm_of(values));
  std::pair<double, std::string> largest;
  if (a.size() != b.size()) return {INFINITY, "other tensors"};
  for (const auto& [name, values] : b) {
    const auto found = a.find(name);
    if (found == a.end() || found->second.size() != values.size()) return {INFINITY, name};
    std::vector<float> difference(values);
    for (size_t i = 0; i < values.size(); ++i) difference[i] = found->second[i] - values[i];
    const double error = norm_of(difference) / std::max(norm_of(values), 1e-4 * largest_norm);
    if (!(error <= largest.first)) largest = {error, name};
  }
  return largest;
}

}  // namespace trireme::testing
