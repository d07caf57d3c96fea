// Speed of mixtures of experts, part by part, as ratios within one run: scripts/bench --experts.
//   expert_speed [--device cpu|cuda:0] [--threads N] [--rounds R] [--seconds S] [--dtypes f32,bf16] [--clock wall|processor] [--experts E] [--rows N]
//                [--only SECTION]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <thread>

#include "core/device/allocator.h"
#include "core/device/cuda/cuda_device.h"
#include "core/device/thread_pool.h"
#include "core/error.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "tests/bench/expert_bench.h"

namespace trireme::bench {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return median(ratios);
}

Tensor random_tensor(Stream& stream, DType dtype, Shape shape, uint64_t seed) {
  Tensor host = Tensor::empty_on_host(stream, shape, DType::f32);
  for (int64_t i = 0; i < host.numel(); i += 4) {
    const PhiloxBlock block = philox4x32(seed, static_cast<uint64_t>(i));
    for (int64_t j = i; j < std::min(i + 4, host.numel()); ++j) {
      host.data<float>()[j] = 2 * uniform_from_bits(block.x[j - i]) - 1;
    }
  }
  Tensor wide = Tensor::empty(stream, shape, DType::f32);
  ops::copy_from_host(stream, host.raw(), wide);
  Tensor tensor = Tensor::empty(stream, shape, dtype);
  ops::cast(stream, wide, tensor);
  stream.synchronize();
  return tensor;
}

namespace {

double now(const ExpertOptions& options) {
  timespec time{};
  ::clock_gettime(options.processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

std::vector<std::vector<double>> take_turns(Stream& stream, const ExpertOptions& options,
                                            const std::vector<Program>& programs) {
  std::vector<std::vector<double>> times(programs.size());
  std::vector<int64_t> calls(programs.size(), 0);
  for (int round = -1; round < options.rounds; ++round) {  // the first is warm-up
    for (size_t p = 0; p < programs.size(); ++p) {
      const double begin = now(options);
      double seconds = 0;
      int64_t count = 0;
      // On a GPU several calls are queued before the clock is asked.
      for (int64_t batch = 1; seconds < options.seconds; batch *= 2) {
        for (int64_t i = 0; i < batch; ++i) programs[p](calls[p]++);
        stream.synchronize();
        count += batch;
        seconds = now(options) - begin;
      }
      if (round >= 0) times[p].push_back(seconds / static_cast<double>(count));
    }
  }
  return times;
}

namespace {

std::vector<DType> parse_dtypes(const std::string& text) {
  std::vector<DType> dtypes;
  if (text.find("f32") != std::string::npos) dtypes.push_back(DType::f32);
  if (text.find("bf16") != std::string::npos) dtypes.push_back(DType::bf16);
  return dtypes;
}

ExpertOptions parse(int argc, char** argv) {
  ExpertOptions options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw ConfigError({.what = "no value", .where = name});
    const std::string value = argv[i + 1];
    if (name == "--device") {
      if (value != "cpu") options.device = {DeviceType::cuda, value == "cuda" ? 0 : std::atoi(value.c_str() + 5)};
    } else if (name == "--threads") {
      options.threads = std::atoi(value.c_str());
    } else if (name == "--rounds") {
      options.rounds = std::atoi(value.c_str());
    } else if (name == "--seconds") {
      options.seconds = std::atof(value.c_str());
    } else if (name == "--dtypes") {
      options.dtypes = parse_dtypes(value);
    } else if (name == "--clock") {
      options.processor_time = value == "processor";
    } else if (name == "--experts") {
      options.experts = std::atoll(value.c_str());
    } else if (name == "--rows") {
      options.rows = std::atoll(value.c_str());
    } else if (name == "--only") {
      options.only = value;
    } else {
      throw ConfigError({.what = "unknown option", .found = name, .hint = "tests/bench/expert_speed.cc lists them"});
    }
  }
  return options;
}

void run(const ExpertOptions& options) {
  ThreadPool pool(options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency()));
  std::unique_ptr<Allocator> memory;
  std::unique_ptr<Allocator> pinned;
  std::unique_ptr<Stream> stream;
  if (options.device.type == DeviceType::cpu) {
    memory = std::make_unique<CpuAllocator>();
    stream = std::make_unique<CpuStream>(*memory, pool);
  } else {
    memory = cuda::make_device_allocator(options.device.index);
    pinned = cuda::make_pinned_allocator(options.device.index);
    stream = cuda::make_stream(options.device.index, *memory, *pinned, pool);
  }
  for (const ExpertSection& section : sections()) {
    if (section.name.find(options.only) == std::string::npos) continue;
    std::printf("== %s, %s, %d threads\n", section.name.c_str(), stream->device().str().c_str(), pool.size());
    section.run(*stream, options);
  }
}

}  // namespace
}  // namespace trireme::bench

int main(int argc, char** argv) {
  try {
    trireme::bench::run(trireme::bench::parse(argc, argv));
    return 0;
  } catch (const trireme::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
