#include "launcher/rank_context.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "core/device/cpu_features.h"
#include "core/error.h"
#include "parallel/resolve.h"

namespace trireme {

RankContext::RankContext(const Config& config, Communicator& world, int local_size)
    : world_(world), mesh_(resolve_mesh(config.parallel, world.size(), world.rank())) {
  if (config.run.device == DeviceChoice::cuda) {
    throw MachineError({.what = "run.device is cuda, but this program was built without CUDA",
                        .hint = "run.device: cpu, or a build with TRIREME_CUDA=on"});
  }
  const std::vector<int64_t> group = mesh_.group(kDataAxes);
  const std::vector<int> ranks(group.begin(), group.end());
  data_ = world_.split(ranks, "data");
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

namespace {

// All ranks often fail alike. One message is enough: the lowest rank's, which aborts the others while they wait.
void wait_for_lower_ranks(int rank) {
  if (rank > 0) std::this_thread::sleep_for(std::chrono::milliseconds(400 + 100 * std::min(rank, 30)));
}

}  // namespace

int run_rank(const Config& config, MpiRuntime* mpi, const std::function<int(RankContext&)>& body) {
  const int rank_number = mpi != nullptr ? mpi->rank() : 0;
  const auto fail = [&](ExitCode code, const std::string& message) {
    // A rank that failed only because another did stays silent: the first one speaks for all.
    if (code != ExitCode::peer) {
      wait_for_lower_ranks(rank_number);
      const std::string who = mpi != nullptr && mpi->size() > 1 ? " [rank " + std::to_string(rank_number) + "]" : "";
      std::fprintf(stderr, "error: %s%s\n", message.c_str(), who.c_str());
    }
    if (mpi != nullptr && mpi->size() > 1) mpi->abort(code);
    return static_cast<int>(code);
  };
  try {
    FlightRecorder recorder(rank_number);
    const auto world = mpi != nullptr ? mpi->world(recorder) : make_self_communicator("world", recorder);
    RankContext rank(config, *world, mpi != nullptr ? mpi->local_size() : 1);
    return body(rank);
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::machine, "this machine is out of memory; try a smaller batch.micro or recompute.mode: full");
  } catch (const std::exception& error) {
    return fail(ExitCode::bug, error.what());
  }
}

}  // namespace trireme
