// Products of tensor parallelism on emulated GPUs, with the nccl backend.
#include <gtest/gtest.h>

#include "tests/emulator/nccl_ranks.h"
#include "tests/parallel/tensor_products_cases.h"

namespace trireme {
namespace {

TEST(NcclTensorProducts, AreExactInAnyChunks) {
  for (const int ranks : {2, 3}) {
    run_nccl_ranks(ranks, [](Communicator& comm, Stream& stream) {
      for (const ProductsCase& c : products_cases()) {
        if (c.num_chunks != 3) check_products(comm, stream, c);
      }
    });
  }
}

}  // namespace
}  // namespace trireme
