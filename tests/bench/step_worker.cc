// Trireme's training step as a worker of compare.py and gpu_compare.py. The protocol and the models are described in
// README.md here.
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/config/load.h"
#include "core/ops/cpu/gemm_peak.h"
#include "core/ops/elementwise.h"
#include "launcher/rank_context.h"
#include "launcher/rank_env.h"
#include "parallel/comm/thread_world.h"
#include "tests/bench/step_runner.h"

namespace trireme {
namespace {

using nlohmann::json;

struct Options {
  std::string config;             // a YAML file; or one of the CPU's cases:
  std::vector<std::string> sets;  // with --config: key=value
  std::string model;
  std::string dtype = "fp32";
  int threads = 1;
  int ranks = 0;  // > 0: so many, as threads of this process
};

constexpr int64_t kCpuSequence = 256;

// The models of the CPU's cases.
Config cpu_case(const Options& options, int64_t ranks) {
  Config c;
  ModelConfig& m = c.model;
  if (options.model == "gpt2-124m") {
    c.batch.global = 4;
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
    c.batch.global = 16;
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
  c.run.device = DeviceChoice::cpu;
  c.run.threads = options.threads;
  c.batch.micro = c.batch.global / ranks;
  c.data.sequence_length = kCpuSequence;
  c.precision.compute = options.dtype == "bf16" ? ComputeType::bf16 : ComputeType::fp32;
  c.optimizer.schedule.type = LrScheduleType::constant;
  return c;
}

// Rank 0 reads commands and tells the others: a code and a number.
enum Command : int64_t { kQuit, kStep, kPhases, kGemm };

std::pair<int64_t, int64_t> read_command() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string word;
    int64_t count = 0;
    words >> word;
    if (word == "quit") return {kQuit, 0};
    if (word == "gemm") return {kGemm, 0};
    if (word == "phases") return {kPhases, 0};
    if (word == "step" && words >> count && count >= 1) return {kStep, count};
    std::cout << json({{"error", "no such command: " + line}}).dump() << std::endl;
  }
  return {kQuit, 0};
}

json measure_gemm(RankContext& rank) {
  return {{"fp32_gflops", cpu::measure_peak_gflops(rank.pool(), DType::f32)},
          {"bf16_gflops", cpu::measure_peak_gflops(rank.pool(), DType::bf16)}};
}

void say_ready(RankContext& rank, const Options& options, const Config& config, const StepRunner& runner) {
  const int64_t sequence = config.data.sequence_length;
  std::cout << json({{"ready", true},
                     {"program", "trireme"},
                     {"model", options.config.empty() ? options.model : options.config},
                     {"dtype", dtype_name(runner.compute())},
                     {"device", rank.device().str()},
                     {"threads", rank.pool().size()},
                     {"processes", rank.world_size()},
                     {"parameters", runner.num_parameters()},
                     {"micro", config.batch.micro},
                     {"microbatches", runner.num_microbatches()},
                     {"sequence", sequence},
                     {"tokens_per_step", config.batch.global * sequence},
                     {"flops_per_token", model_flops_per_token(config.model, sequence)},
                     {"peak_flops", rank.device().peak_flops(runner.compute())}})
                   .dump()
            << std::endl;
}

int serve(RankContext& rank, const Options& options, const Config& config) {
  StepRunner runner(rank, config);
  if (rank.is_main()) say_ready(rank, options, config, runner);
  for (;;) {
    int64_t command[2] = {kQuit, 0};
    if (rank.is_main()) std::tie(command[0], command[1]) = read_command();
    if (rank.world_size() > 1) {
      Tensor shared = Tensor::borrow(command, {2}, DType::i64);
      rank.world().broadcast(shared, 0, rank.host_stream())->wait(rank.host_stream());
    }
    if (command[0] == kQuit) return 0;
    const json answer = command[0] == kStep     ? runner.steps(command[1])
                        : command[0] == kPhases ? runner.phases()
                                                : measure_gemm(rank);
    if (rank.is_main()) std::cout << answer.dump() << std::endl;
  }
}

Config configuration(const Options& options, int ranks) {
  return options.config.empty() ? cpu_case(options, ranks) : load_config(options.config, options.sets);
}

int run_as_threads(const Options& options) {
  const Config config = configuration(options, options.ranks);
  run_thread_ranks(options.ranks, [&](Communicator& world) {
    RankContext rank(config, world, LocalPlace{world.rank(), options.ranks});
    serve(rank, options, config);
  });
  return 0;
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--config") options.config = argv[i + 1];
    if (key == "--set") options.sets.push_back(argv[i + 1]);
    if (key == "--model") options.model = argv[i + 1];
    if (key == "--dtype") options.dtype = argv[i + 1];
    if (key == "--threads") options.threads = std::atoi(argv[i + 1]);
    if (key == "--ranks") options.ranks = std::atoi(argv[i + 1]);
  }
  if (options.ranks > 0) return run_as_threads(options);
  std::unique_ptr<MpiRuntime> mpi;
  if (find_rank_env().under_mpi()) mpi = std::make_unique<MpiRuntime>();
  const Config config = configuration(options, mpi ? mpi->size() : 1);
  return run_rank(config, mpi.get(), [&](RankContext& rank) { return serve(rank, options, config); });
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
