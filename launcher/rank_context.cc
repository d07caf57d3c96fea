#include "launcher/rank_context.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "core/device/cuda/cuda_device.h"
#include "core/error.h"
#include "parallel/comm/cuda/nccl_communicator.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

constexpr double kNcclPatience = 60;  // seconds

}  // namespace

RankContext::RankContext(const Config& config, Communicator& world, LocalPlace place, EndProgram end_program)
    : world_(world),
      end_program_(std::move(end_program)),
      mesh_(resolve(config, world.size(), world.rank(), place.size)),
      device_(resolve_device(config, place)) {
  const int64_t threads = config.run.threads.value_or(default_threads(place.size));
  pool_ = std::make_unique<ThreadPool>(static_cast<int>(threads));
  host_allocator_ = std::make_unique<CpuAllocator>();
  host_stream_ = std::make_unique<CpuStream>(*host_allocator_, *pool_);
  copy_pool_ = std::make_unique<ThreadPool>(1);
  const int index = device_.device.index;
  if (device_.device.type == DeviceType::cuda) {
    allocator_ = cuda::make_device_allocator(index);
    pinned_ = cuda::make_pinned_allocator(index);
    stream_ = cuda::make_stream(index, *allocator_, *pinned_, *pool_);
    copy_stream_ = cuda::make_stream(index, *allocator_, *pinned_, *copy_pool_);
  } else {
    allocator_ = std::make_unique<CpuAllocator>();
    stream_ = std::make_unique<CpuStream>(*allocator_, *pool_);
    copy_allocator_ = std::make_unique<CpuAllocator>();
    copy_stream_ = std::make_unique<CpuStream>(*copy_allocator_, *copy_pool_);
  }
  const bool nccl = device_.backend == CommBackend::nccl;
  // A hang is found by HangWatch, which knows who is late; NCCL's own limit comes behind it.
  const double limit = config.run.hang_timeout;
  const NcclOptions nccl_options{.deterministic = config.run.deterministic,
                                 .call_seconds = limit > 0 ? limit + kNcclPatience : 0};
  const auto make = [&](const std::vector<int>& ranks, const std::string& name) -> std::unique_ptr<Communicator> {
    if (!ranks.empty()) recorder().set_members(name, ranks);
    auto hosts = world_.split(ranks, nccl ? name + " hosts" : name);
    if (!nccl || ranks.size() < 2) return hosts;
    return make_nccl_communicator(std::move(hosts), name, *stream_, nccl_options);
  };
  const bool ring = config.parallel.schedule == PipelineSchedule::interleaved && config.parallel.virtual_stages > 1;
  groups_ = std::make_unique<Groups>(mesh_, ring, make, /*experts=*/config.model.experts.num_experts > 0);
  tensor_ = TensorGroup(groups_->of({Axis::tensor}), config.parallel.sequence, config.parallel.overlap_tensor);
}

namespace {

// The kernel refuses a set smaller than its own, and says not how large that is.
int usable_cores() {
  for (size_t bytes = sizeof(cpu_set_t); bytes <= 1024 * sizeof(cpu_set_t); bytes *= 2) {
    std::vector<cpu_set_t> set(bytes / sizeof(cpu_set_t));
    if (::sched_getaffinity(0, bytes, set.data()) == 0) return CPU_COUNT_S(bytes, set.data());
  }
  return 1;
}

}  // namespace

int default_threads(int local_size) { return std::max(1, usable_cores() / std::max(1, local_size)); }

namespace {

// How long a rank that failed leaves the word to others. All ranks often fail alike: the lowest one's message is enough, and
// it ends the others while they wait. A rank that failed because another one did lets all of those have their turn, which
// know the cause; if none speaks there is none, and ranks only wait for each other.
std::chrono::milliseconds patience(int rank, ExitCode code) {
  const int place = std::min(rank, 30);
  if (code == ExitCode::peer) return std::chrono::milliseconds(5000 + 100 * place);
  return std::chrono::milliseconds(rank == 0 ? 0 : 400 + 100 * place);
}

}  // namespace

int run_rank(const Config& config, MpiRuntime* mpi, const std::function<int(RankContext&)>& body,
             const LastWords& last_words) {
  const int rank_number = mpi != nullptr ? mpi->rank() : 0;
  const bool alone = mpi == nullptr || mpi->size() == 1;
  FlightRecorder recorder(rank_number);
  std::mutex speaking;  // the first of this rank's threads that fails; under MPI another would end here
  const auto fail = [&](ExitCode code, const std::string& message) {
    const std::lock_guard lock(speaking);
    if (!alone) std::this_thread::sleep_for(patience(rank_number, code));
    const std::string who = alone ? "" : " [rank " + std::to_string(rank_number) + "]";
    std::fprintf(stderr, "error: %s%s\n", message.c_str(), who.c_str());
    if (last_words) last_words(code, message, recorder);
    if (!alone) mpi->abort(code);
    return static_cast<int>(code);
  };
  try {
    const auto world = mpi != nullptr ? mpi->world(recorder) : make_self_communicator("world", recorder);
    const LocalPlace place = mpi != nullptr ? LocalPlace{mpi->local_rank(), mpi->local_size()} : LocalPlace{};
    RankContext rank(config, *world, place, fail);
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
