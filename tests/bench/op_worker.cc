// Times the ops of a model's microbatch at their shapes, and two ceilings of the device: a large matrix product and a
// large copy. Prints a JSON object for each, one a line:
//
//   {"op": "up forward", "kind": "gemm", "shape": "…", "calls": 24, "seconds": 1e-3, "bytes": …, "flops": …}
//
// `seconds`, `bytes` and `flops` are those of one call, `calls` the number in one microbatch; `bytes` is the least that
// must move. The first line describes the device, the ceilings have "ceiling": true.
//
//   trireme_op_bench --config configs/qwen2.5-0.5b.yaml [--set batch.micro=32]… [--seconds 0.1] [--only up]
//                    [--gemm-size 8192] [--copy-mib 2048]
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/config/load.h"
#include "launcher/precision.h"
#include "launcher/rank_context.h"
#include "models/transformer.h"
#include "tests/bench/op_cases.h"

namespace trireme {
namespace {

using nlohmann::json;

struct Options {
  std::string config;
  std::vector<std::string> sets;
  double seconds = 0.1;  // for each op, warm-up included
  std::string only;      // ops whose name contains this
  int64_t gemm_size = 8192;
  int64_t copy_mib = 2048;
};

// Operands are laid out several times over, so that a call doesn't find in a cache what the call before left there.
constexpr int64_t kRotatedBytes = int64_t{512} << 20;
constexpr int kMaxSets = 8;
constexpr int kSamples = 9;

struct Timing {
  double seconds = 0;  // of one call
  int64_t bytes = 0;
};

class Timer {
 public:
  Timer(Stream& stream, double seconds) : stream_(stream), seconds_(seconds) {}

  Timing time(const OpCase& op) {
    std::vector<OpCall> calls;
    int64_t bytes = 0;
    for (int i = 0; i < kMaxSets; ++i) {
      Operands operands(stream_);
      calls.push_back(op.make(operands));
      bytes = std::max<int64_t>(1, operands.bytes());
      if ((i + 1) * bytes >= kRotatedBytes) break;
    }
    // The first calls choose algorithms and make plans.
    for (const OpCall& call : calls) call(stream_);
    const double once = span(calls, std::ssize(calls)) / static_cast<double>(calls.size());
    const double per_sample = seconds_ / (kSamples + 1);
    const auto repeats = static_cast<int64_t>(std::clamp(per_sample / std::max(once, 1e-7), 1.0, 1000.0));
    std::vector<double> samples;
    for (int i = 0; i < kSamples; ++i) {
      samples.push_back(span(calls, repeats) / static_cast<double>(repeats));
      if (once * (i + 1) > 4 * seconds_) break;  // an op that is far slower than the time given
    }
    std::sort(samples.begin(), samples.end());
    return {samples[samples.size() / 2], bytes};
  }

 private:
  // Device seconds of `count` calls in a row.
  double span(std::vector<OpCall>& calls, int64_t count) {
    stream_.synchronize();
    const auto begin = stream_.record_time();
    for (int64_t i = 0; i < count; ++i) calls[static_cast<size_t>(i) % calls.size()](stream_);
    const auto end = stream_.record_time();
    stream_.synchronize();
    return end->seconds_since(*begin);
  }

  Stream& stream_;
  double seconds_;
};

void print(const json& line) { std::cout << line.dump() << std::endl; }

int measure(RankContext& rank, const Options& options, const Config& config) {
  Stream& stream = rank.stream();
  const DType compute = resolve_precision(config, stream.device()).compute;
  print({{"device", rank.device().str()},
         {"peak_flops", rank.device().peak_flops(compute)},
         {"dtype", dtype_name(compute)},
         {"attention", ops::describe_attention(stream, attention_shape(config), compute, config.data.mask_documents)},
         {"micro", config.batch.micro},
         {"microbatches", config.batch.global / config.batch.micro},
         {"parameters", count_parameters(config.model)},
         {"flops_per_token", model_flops_per_token(config.model, config.data.sequence_length)},
         {"tokens_per_step", config.batch.global * config.data.sequence_length}});
  Timer timer(stream, options.seconds);
  const auto show = [&](const OpCase& op, bool ceiling) {
    if (!ceiling && op.name.find(options.only) == std::string::npos) return;
    json line = {{"op", op.name}, {"kind", op.kind}, {"shape", op.shape}, {"calls", op.calls}, {"flops", op.flops}};
    if (ceiling) line["ceiling"] = true;
    try {
      const Timing timing = timer.time(op);
      line["seconds"] = timing.seconds;
      line["bytes"] = timing.bytes;
    } catch (const MachineError& error) {
      line["error"] = error.what();  // out of memory: the others may fit
    }
    print(line);
  };
  show(copy_case(options.copy_mib << 20), /*ceiling=*/true);
  show(gemm_case("product", options.gemm_size, options.gemm_size, options.gemm_size, compute, 1), /*ceiling=*/true);
  visit_model_cases(config, stream.device().type, compute, [&](const OpCase& op) { show(op, /*ceiling=*/false); });
  return 0;
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--config") options.config = argv[i + 1];
    if (key == "--set") options.sets.push_back(argv[i + 1]);
    if (key == "--seconds") options.seconds = std::atof(argv[i + 1]);
    if (key == "--only") options.only = argv[i + 1];
    if (key == "--gemm-size") options.gemm_size = std::atoll(argv[i + 1]);
    if (key == "--copy-mib") options.copy_mib = std::atoll(argv[i + 1]);
  }
  if (options.config.empty()) throw ConfigError({.what = "no model", .hint = "--config FILE.yaml"});
  const Config config = load_config(options.config, options.sets);
  return run_rank(config, nullptr, [&](RankContext& rank) { return measure(rank, options, config); });
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
