#include "parallel/comm/cuda/nccl_bootstrap.h"

#include <unistd.h>

#include <array>
#include <compare>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "core/device/cuda/cuda_device.h"
#include "core/device/thread_pool.h"
#include "parallel/comm/cuda/nccl_check.h"

namespace trireme::cuda {

namespace {

// A CPU stream for exchanges that wait.
struct HostStream {
  CpuAllocator allocator;
  ThreadPool pool{1};
  CpuStream stream{allocator, pool};
};

// Where a rank's GPU is. Hosts may share a name, but not the id of their last start.
struct Place {
  std::array<char, 64> host{};
  std::array<char, 48> boot{};
  std::array<char, 32> bus{};

  auto operator<=>(const Place&) const = default;
};

template <size_t N>
void assign(std::array<char, N>& to, const std::string& from) {
  std::snprintf(to.data(), N, "%s", from.c_str());
}

Place place_of(Device device) {
  Place place;
  assign(place.host, host_name());
  std::ifstream boot_id("/proc/sys/kernel/random/boot_id");
  std::string line;
  std::getline(boot_id, line);
  assign(place.boot, line);
  assign(place.bus, device_info(device.index).bus_id);
  return place;
}

// "4 ranks on 2 GPUs there", of the group's ranks on that host.
std::string count_ranks_and_gpus(const std::vector<Place>& all, const Place& host) {
  int ranks = 0;
  std::set<std::string> gpus;
  for (const Place& place : all) {
    if (place.host != host.host || place.boot != host.boot) continue;
    ++ranks;
    gpus.insert(place.bus.data());
  }
  return std::to_string(ranks) + " ranks on " + std::to_string(gpus.size()) + (gpus.size() == 1 ? " GPU" : " GPUs") +
         " there";
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "?";
}

void refuse_shared_gpus(Communicator& host, const std::string& group, Device device) {
  HostStream local;
  Place mine = place_of(device);
  std::vector<Place> all(static_cast<size_t>(host.size()));
  const auto bytes = static_cast<int64_t>(sizeof(Place));
  host.all_gather(Tensor::borrow(&mine, {bytes}, DType::u8),
                  Tensor::borrow(all.data(), {bytes * host.size()}, DType::u8), local.stream)
      ->wait(local.stream);
  std::map<Place, int> rank_at;
  for (int rank = 0; rank < host.size(); ++rank) {
    const Place& place = all[static_cast<size_t>(rank)];
    const auto [first, added] = rank_at.emplace(place, rank);
    if (added) continue;
    throw MachineError({.what = "ranks " + std::to_string(first->second) + " and " + std::to_string(rank) +
                                " of group " + group + " would share GPU " + place.bus.data() + " of host " +
                                place.host.data() + ", and NCCL takes one rank for each",
                        .expected = "a GPU for each rank",
                        .found = count_ranks_and_gpus(all, place),
                        .hint = "as many ranks per machine as it has GPUs (CUDA_VISIBLE_DEVICES may hide some), or "
                                "parallel.backend: mpi, which lets ranks share a GPU"});
  }
}

ncclUniqueId share_unique_id(Communicator& host) {
  HostStream local;
  ncclUniqueId id{};
  if (host.rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId", host.recorder().rank());
  host.broadcast(Tensor::borrow(&id, {int64_t{sizeof id}}, DType::u8), /*root=*/0, local.stream)->wait(local.stream);
  return id;
}

void pin_algorithms() {
  static std::mutex mutex;  // the environment is the process's
  std::lock_guard lock(mutex);
  if (std::getenv("NCCL_ALGO") == nullptr) ::setenv("NCCL_ALGO", "Ring,Tree", /*overwrite=*/1);
}

}  // namespace trireme::cuda
