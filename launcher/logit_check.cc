#include "launcher/logit_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/device/allocator.h"
#include "core/device/thread_pool.h"
#include "core/metrics/format.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "launcher/host_memory.h"
#include "launcher/rank_context.h"
#include "launcher/train_step.h"

namespace trireme {

namespace {

constexpr int64_t kNumTokens = 64;

void round_to_bf16(Transformer& model) {
  for (Bucket* bucket : model.buckets()) {
    if (bucket->values_of() != nullptr) continue;
    auto* values = bucket->value().data<float>();
    for (int64_t i = 0; i < bucket->value().numel(); ++i) values[i] = static_cast<float>(bf16(values[i]));
  }
}

std::vector<float> logits_of(Stream& stream, const ModelConfig& config, const LoadWeights& load, bool round,
                             const std::vector<int32_t>& tokens) {
  const auto length = std::ssize(tokens);
  Transformer model(stream, config, Transformer::Options{.max_sequence = length, .with_optimizer_states = false});
  load(stream, model);
  if (round) round_to_bf16(model);
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  const HostMicrobatch host{1, length, tokens.data(), tokens.data(), positions.data(), nullptr};
  const Tensor logits = forward_logits(stream, model, host);
  std::vector<float> values(static_cast<size_t>(logits.numel()));
  ops::copy_to_host(stream, logits, values.data());
  stream.synchronize();
  return values;
}

}  // namespace

std::string LogitCheck::str() const {
  if (!left_out.empty()) return "not compared: " + left_out;
  const std::string of = " (of " + std::to_string(num_tokens) + " random tokens, in fp32)";
  if (largest == 0) return "equal" + of;
  return "largest difference " + scientific(largest) + ", " + scientific(relative) + " of the largest logit" + of;
}

LogitCheck check_logits(const ModelConfig& config, const LoadWeights& a, const LoadWeights& b, bool round_a) {
  LogitCheck check;
  const int64_t needed = count_parameters(config) * 4;
  const int64_t available = available_host_bytes();
  if (needed > available / 2) {
    check.left_out = "the model takes " + human_bytes(needed) + " in fp32, more than half of the " +
                     human_bytes(available) + " that are free";
    return check;
  }
  check.num_tokens = std::min(kNumTokens, config.max_positions);
  const uint64_t key = random_key(/*seed=*/1234, "logit check");
  std::vector<int32_t> tokens(static_cast<size_t>(check.num_tokens));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(philox4x32(key, i).x[0] % static_cast<uint64_t>(config.vocab_size));
  }
  ThreadPool pool(default_threads(/*local_size=*/1));
  CpuAllocator allocator;
  CpuStream stream(allocator, pool);
  const std::vector<float> x = logits_of(stream, config, a, round_a, tokens);
  const std::vector<float> y = logits_of(stream, config, b, /*round=*/false, tokens);
  double scale = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = std::fabs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
    if (!std::isfinite(d)) check.relative = std::numeric_limits<double>::infinity();
    check.largest = std::max(check.largest, d);
    scale = std::max(scale, std::fabs(static_cast<double>(x[i])));
  }
  if (check.largest > 0) check.relative = std::max(check.relative, check.largest / scale);
  return check;
}

}  // namespace trireme
