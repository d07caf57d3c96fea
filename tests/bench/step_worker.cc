// Trireme's training step as a worker of compare.py. The protocol and the two models are described in README.md here.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/ops/cpu/gemm_peak.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "launcher/precision.h"
#include "launcher/rank_context.h"
#include "launcher/rank_env.h"
#include "launcher/train_step.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

struct Options {
  std::string model;
  std::string dtype = "fp32";
  int threads = 1;
};

struct BenchModel {
  Config config;
  int64_t batch = 0;
  int64_t sequence = 256;
};

BenchModel make_model(const Options& options) {
  BenchModel bench;
  Config& c = bench.config;
  ModelConfig& m = c.model;
  if (options.model == "gpt2-124m") {
    bench.batch = 4;
    m.family = ModelFamily::gpt2;
    m.hidden_size = 768;
    m.num_layers = 12;
    m.num_heads = m.num_kv_heads = 12;
    m.head_dim = 64;
    m.ffn_size = 3072;
    m.vocab_size = 50257;
    m.max_positions = 1024;
    m.norm = NormKind::layer;
    m.norm_eps = 1e-5;
    m.activation = Activation::gelu_tanh;
    m.rope.type = RopeType::none;
    m.tie_embeddings = true;
  } else if (options.model == "llama-9.6m") {
    bench.batch = 16;
    m.hidden_size = 384;
    m.num_layers = 6;
    m.num_heads = 6;
    m.num_kv_heads = 2;
    m.head_dim = 64;
    m.ffn_size = 1024;
    m.vocab_size = 256;
    m.max_positions = 256;
  } else {
    throw ConfigError({.what = "no such model", .expected = "gpt2-124m or llama-9.6m", .found = options.model});
  }
  c.run.threads = options.threads;
  c.batch.global = bench.batch;
  c.data.sequence_length = bench.sequence;
  c.precision.compute = options.dtype == "bf16" ? ComputeType::bf16 : ComputeType::fp32;
  c.optimizer.schedule.type = LrScheduleType::constant;
  return bench;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Worker {
 public:
  Worker(RankContext& rank, const BenchModel& bench)
      : rank_(rank),
        bench_(bench),
        model_(rank.stream(), bench.config.model,
               resolve_precision(bench.config, rank.stream().device()).model_options(bench.sequence)) {
    model_.initialize(rank.stream(), 1234);
    step_ = std::make_unique<TrainStep>(rank.stream(), rank.data(), model_, bench.config);
  }

  int64_t num_parameters() const { return model_.num_parameters(); }

  json steps(int64_t count) {
    std::vector<double> seconds;
    std::map<std::string, std::vector<double>> phases;
    double loss = 0;
    for (int64_t i = 0; i < count; ++i) {
      draw_tokens();
      const auto begin = Clock::now();
      step_->forward_backward(std::span(&microbatch_, 1));
      const auto middle = Clock::now();
      step_->update(3e-4, ++updates_);
      const StepNumbers numbers = step_->take_numbers();
      wait_for_all();
      const auto end = Clock::now();
      const auto since = [](auto a, auto b) { return std::chrono::duration<double>(b - a).count(); };
      seconds.push_back(since(begin, end));
      phases["forward and backward"].push_back(since(begin, middle));
      phases["clip and optimizer"].push_back(since(middle, end));
      phases["exposed communication"].push_back(numbers.exposed_comm_seconds);
      loss = numbers.loss;
    }
    json answer = {{"seconds", seconds}, {"loss", loss}};
    for (const auto& [name, values] : phases) answer["phases"][name] = median(values);
    return answer;
  }

  json gemm() {
    return {{"fp32_gflops", cpu::measure_peak_gflops(rank_.pool(), DType::f32)},
            {"bf16_gflops", cpu::measure_peak_gflops(rank_.pool(), DType::bf16)}};
  }

 private:
  void draw_tokens() {
    const int64_t local = bench_.batch / rank_.world_size();
    const int64_t count = local * (bench_.sequence + 1);
    tokens_.resize(static_cast<size_t>(local * bench_.sequence));
    labels_.resize(tokens_.size());
    positions_.resize(tokens_.size());
    const uint64_t key = random_key(static_cast<uint64_t>(updates_), "tokens");
    const auto draw = [&](int64_t i) {
      return static_cast<int32_t>(uniform_below(key, static_cast<uint64_t>(rank_.rank() * count + i),
                                                static_cast<uint64_t>(bench_.config.model.vocab_size)));
    };
    for (int64_t b = 0; b < local; ++b) {
      for (int64_t t = 0; t < bench_.sequence; ++t) {
        const size_t i = static_cast<size_t>(b * bench_.sequence + t);
        tokens_[i] = draw(b * (bench_.sequence + 1) + t);
        labels_[i] = draw(b * (bench_.sequence + 1) + t + 1);
        positions_[i] = static_cast<int32_t>(t);
      }
    }
    microbatch_ = {local, bench_.sequence, tokens_.data(), labels_.data(), positions_.data(), nullptr};
  }

  void wait_for_all() {
    if (rank_.world_size() > 1) rank_.world().barrier(rank_.stream())->wait(rank_.stream());
  }

  RankContext& rank_;
  BenchModel bench_;
  Transformer model_;
  std::unique_ptr<TrainStep> step_;
  int64_t updates_ = 0;
  std::vector<int32_t> tokens_, labels_, positions_;
  HostMicrobatch microbatch_;
};

// Rank 0 reads commands and tells the others: a code and a number.
enum Command : int64_t { kQuit, kStep, kGemm };

std::pair<int64_t, int64_t> read_command() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string word;
    int64_t count = 0;
    words >> word;
    if (word == "quit") return {kQuit, 0};
    if (word == "gemm") return {kGemm, 0};
    if (word == "step" && words >> count && count >= 1) return {kStep, count};
    std::cout << json({{"error", "no such command: " + line}}).dump() << std::endl;
  }
  return {kQuit, 0};
}

int serve(RankContext& rank, const Options& options, const BenchModel& bench) {
  Worker worker(rank, bench);
  if (rank.is_main()) {
    std::cout << json({{"ready", true},
                       {"program", "trireme"},
                       {"model", options.model},
                       {"dtype", options.dtype},
                       {"threads", rank.pool().size()},
                       {"processes", rank.world_size()},
                       {"parameters", worker.num_parameters()},
                       {"tokens_per_step", bench.batch * bench.sequence}})
                     .dump()
              << std::endl;
  }
  for (;;) {
    int64_t command[2] = {kQuit, 0};
    if (rank.is_main()) std::tie(command[0], command[1]) = read_command();
    if (rank.world_size() > 1) {
      Tensor shared = Tensor::borrow(command, {2}, DType::i64);
      rank.world().broadcast(shared, 0, rank.stream())->wait(rank.stream());
    }
    if (command[0] == kQuit) return 0;
    const json answer = command[0] == kStep ? worker.steps(command[1]) : worker.gemm();
    if (rank.is_main()) std::cout << answer.dump() << std::endl;
  }
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--model") options.model = argv[i + 1];
    if (key == "--dtype") options.dtype = argv[i + 1];
    if (key == "--threads") options.threads = std::atoi(argv[i + 1]);
  }
  const BenchModel bench = make_model(options);
  std::unique_ptr<MpiRuntime> mpi;
  if (find_rank_env().under_mpi()) mpi = std::make_unique<MpiRuntime>();
  return run_rank(bench.config, mpi.get(), [&](RankContext& rank) { return serve(rank, options, bench); });
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  try {
    return trireme::run(argc, argv);
  } catch (const trireme::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
