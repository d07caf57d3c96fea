// Ranks as threads, each with an emulated GPU and a communicator of the nccl backend.
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/cuda/nccl_communicator.h"
#include "parallel/comm/thread_world.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/nccl.h"
#include "tests/parallel/comm_conformance.h"

namespace trireme {

// Runs `body` on `ranks` ranks at once, rank r on GPU r; the first exception is thrown here. When a rank throws, the
// others are ended as a launcher would.
inline void run_nccl_ranks(int ranks, const std::function<void(Communicator&, Stream&)>& body,
                           const NcclOptions& options = {}) {
  emulator::set_num_devices(ranks);
  run_thread_ranks(ranks, [&](Communicator& world) {
    TestGpu gpu(world.rank());
    try {
      std::vector<int> all;
      for (int r = 0; r < world.size(); ++r) all.push_back(r);
      const auto comm = make_nccl_communicator(world.split(all, "hosts"), "world", *gpu.stream, options);
      TestDevice host;
      world.barrier(host.stream)->wait(host.stream);  // or a rank may fail while another still joins
      body(*comm, *gpu.stream);
    } catch (const std::exception& error) {
      emulator::nccl_abort_all(std::string("rank failed: ") + error.what());
      throw;
    }
    gpu.stream->synchronize();
  });
  emulator::set_num_devices(0);
}

}  // namespace trireme
