#include "launcher/rank_context.h"

#include <sched.h>

#include <algorithm>

#include "core/device/cpu_features.h"
#include "core/error.h"
#include "parallel/resolve.h"

namespace trireme {

RankContext::RankContext(const Config& config, std::unique_ptr<FlightRecorder> recorder,
                         std::unique_ptr<Communicator> world, int local_size)
    : recorder_(std::move(recorder)),
      world_(std::move(world)),
      mesh_(resolve_mesh(config.parallel, world_->size(), world_->rank())) {
  if (config.run.device == DeviceChoice::cuda) {
    throw MachineError({.what = "run.device is cuda, but this program was built without CUDA",
                        .hint = "run.device: cpu, or a build with TRIREME_CUDA=on"});
  }
  const std::vector<int64_t> group = mesh_.group(kDataAxes);
  const std::vector<int> ranks(group.begin(), group.end());
  data_ = world_->split(ranks, "data");
  const int64_t threads = config.run.threads.value_or(default_threads(local_size));
  pool_ = std::make_unique<ThreadPool>(static_cast<int>(threads));
  allocator_ = std::make_unique<CpuAllocator>();
  stream_ = std::make_unique<CpuStream>(*allocator_, *pool_);
}

int default_threads(int local_size) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, cores / std::max(1, local_size));
}

DType resolve_compute(const Config& config) {
  switch (config.precision.compute) {
    case ComputeType::fp32: return DType::f32;
    case ComputeType::bf16: return DType::bf16;
    case ComputeType::automatic: {
      const CpuFeatures& cpu = cpu_features();
      return cpu.has_fast_bf16() ? DType::bf16 : DType::f32;
    }
    case ComputeType::fp8: break;
  }
  throw ConfigError({.what = "precision.compute: fp8 is not built yet", .hint = "bf16"});
}

}  // namespace trireme
