// What stands in for the folder cuda/ in a program built without CUDA.
#include "core/error.h"
#include "parallel/comm/cuda/device_copies.h"
#include "parallel/comm/cuda/nccl_communicator.h"

namespace trireme {

namespace {

[[noreturn]] void absent() {
  throw MachineError({.what = "this program was built without CUDA",
                      .hint = "run.device: cpu and parallel.backend: mpi, or a build with TRIREME_CUDA=on"});
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, const std::string&, Stream&,
                                                     const NcclOptions&) {
  absent();
}

void cuda::queue_download(Stream&, const Tensor&, const Tensor&) { absent(); }
void cuda::queue_upload(Stream&, const Tensor&, const Tensor&) { absent(); }

}  // namespace trireme
