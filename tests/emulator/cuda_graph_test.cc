// Recorded work of a stream, which runs again with the memory that it had.
#include <gtest/gtest.h>

#include "core/ops/elementwise.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/nccl_ranks.h"

namespace trireme {
namespace {

std::vector<float> read(Stream& stream, const Tensor& x) {
  std::vector<float> values(static_cast<size_t>(x.numel()));
  ops::copy_to_host(stream, x, values.data());
  stream.synchronize();
  return values;
}

// What is allocated after the recording, and lives while the graph runs, is none of the graph's.
TEST(CudaGraph, HasMemoryOfItsOwn) {
  emulator::set_num_devices(1);
  {
    TestGpu gpu(0);
    Stream& stream = *gpu.stream;
    Tensor out = Tensor::empty(stream, {64}, DType::f32);
    const auto graph = stream.record_graph([&] {
      Tensor inside = Tensor::empty(stream, {64}, DType::f32);
      ops::fill(stream, inside, 7);
      ops::copy(stream, inside, out);
    });
    Tensor later = Tensor::empty(stream, {64}, DType::f32);
    ops::fill(stream, later, 3);
    ops::fill(stream, out, 0);
    graph->launch();
    EXPECT_EQ(read(stream, out), std::vector<float>(64, 7));
    EXPECT_EQ(read(stream, later), std::vector<float>(64, 3));
    // The graph's is counted with the rest.
    EXPECT_EQ(gpu.allocator->stats().live_bytes[static_cast<size_t>(MemoryTag::activations)], 3 * 256);
  }
  emulator::set_num_devices(0);
}

}  // namespace
}  // namespace trireme
