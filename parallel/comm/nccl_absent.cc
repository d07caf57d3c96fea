// The nccl backend of a program built without CUDA.
#include "core/error.h"
#include "parallel/comm/cuda/nccl_communicator.h"

namespace trireme {

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, const std::string&, Stream&,
                                                     const NcclOptions&) {
  throw MachineError({.what = "this program was built without CUDA, which the nccl backend needs",
                      .hint = "parallel.backend: mpi, or a build with TRIREME_CUDA=on"});
}

}  // namespace trireme
