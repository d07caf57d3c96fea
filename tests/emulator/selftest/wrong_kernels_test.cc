// Kernels that do what they must not are named, with block and threads.
#include "tests/emulator/selftest/fixture.h"

namespace emulator {

namespace {

using ::testing::Test;

__global__ void some_skip_barrier(float* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = 1;
}

__global__ void lanes_with_different_masks(int* out) {
  const unsigned mask = threadIdx.x == 3 ? 0x0000ffffu : 0xffffffffu;
  out[threadIdx.x] = __shfl_xor_sync(mask, 1, 1);
}

__global__ void lanes_with_different_operations(int* out) {
  out[threadIdx.x] = threadIdx.x == 7 ? __shfl_xor_sync(0xffffffffu, 1, 1) : __shfl_down_sync(0xffffffffu, 1, 1);
}

__global__ void lane_outside_its_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }

__global__ void lane_that_does_not_come(int* out) {
  if (threadIdx.x == 9) return;
  __syncwarp();
  out[threadIdx.x] = 1;
}

__global__ void full_mask_in_short_warp(int* out) { out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0); }

__global__ void read_absent_lane(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void write_dynamic_at(int* out, int index) {
  if (threadIdx.x == 0) trireme_dynamic_shared[index] = 1;
  out[threadIdx.x] = 1;
}

__global__ void write_at(int* data, int64_t index) { data[index + threadIdx.x] = 1; }

// A sum without atomics or order between blocks.
[[maybe_unused]] __global__ void add_without_order(volatile int* sum) {
  const int before = *sum;
  int wait = 0;
  for (int i = 0; i < 200; ++i) wait += *sum;
  *sum = before + 1 + (wait == -1 ? 1 : 0);
}

// Forgets the barrier before it reads what its neighbour wrote.
template <bool kForget>
__global__ void neighbour(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!kForget) __syncthreads();
  out[threadIdx.x] = slots[63 - threadIdx.x];
}

class WrongKernels : public EmulatorTest {
 protected:
  // The one failure; the device must be left with `error`.
  std::string failure(cudaError_t error = cudaErrorLaunchFailure) {
    EXPECT_EQ(cudaStreamSynchronize(stream_), error);
    EXPECT_EQ(cudaGetLastError(), error);
    EXPECT_EQ(cudaGetLastError(), error) << "a dead device stays dead";
    clear_errors();
    EXPECT_EQ(failures_.size(), 1u);
    return failures_.empty() ? "" : failures_[0];
  }

  void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is missing in: " << text;
    }
  }
};

TEST_F(WrongKernels, BarrierThatNotAllReach) {
  EXPECT_CUDA(launch(3, 64, 0, some_skip_barrier, device_array<float>(3 * 64)));
  expect_parts(failure(),
               {"emulator::some_skip_barrier, block (", "of 64, 40 wait at __syncthreads", "24 have returned"});
  // The emulator is fit for more.
  auto* out = device_array<int>(64);
  EXPECT_CUDA(launch(1, 64, 0, neighbour<false>, out));
  EXPECT_EQ(host_array(out, 64)[5], 58);
}

TEST_F(WrongKernels, DifferentMasks) {
  EXPECT_CUDA(launch(1, 32, 0, lanes_with_different_masks, device_array<int>(32)));
  expect_parts(failure(), {"lanes_with_different_masks", "disagree", "0x0000ffff", "0xffffffff", "__shfl_xor_sync"});
}

TEST_F(WrongKernels, DifferentOperations) {
  EXPECT_CUDA(launch(1, 32, 0, lanes_with_different_operations, device_array<int>(32)));
  expect_parts(failure(), {"disagree", "(7, 0, 0)", "__shfl_xor_sync", "__shfl_down_sync"});
}

TEST_F(WrongKernels, LaneOutsideItsMask) {
  EXPECT_CUDA(launch(1, 32, 0, lane_outside_its_mask, device_array<int>(32)));
  expect_parts(failure(), {"__shfl_sync", "leaves out", "0x0000ffff"});
}

TEST_F(WrongKernels, LaneThatDoesNotCome) {
  EXPECT_CUDA(launch(1, 64, 0, lane_that_does_not_come, device_array<int>(64)));
  expect_parts(failure(), {"31 in warp operations", "__syncwarp", "lanes 0x00000200 don't come"});
}

TEST_F(WrongKernels, MaskWithLanesThatDoNotExist) {
  EXPECT_CUDA(launch(1, 48, 0, full_mask_in_short_warp, device_array<int>(48)));
  expect_parts(failure(), {"lanes 0xffff0000 don't come", "last warp has the lanes 0x0000ffff"});
}

TEST_F(WrongKernels, ValueOfALaneOutsideTheMaskIsNoValue) {
  auto* out = device_array<int>(32);
  EXPECT_CUDA(launch(1, 32, 0, read_absent_lane, out));
  EXPECT_EQ(host_array(out, 32)[0], -1);
}

#ifndef __SANITIZE_ADDRESS__
TEST_F(WrongKernels, StoreBehindDynamicSharedMemory) {
  EXPECT_CUDA(launch(1, 32, 100, write_dynamic_at, device_array<int>(32), 100));
  expect_parts(failure(), {"write_dynamic_at", "behind its 100 bytes of dynamic shared memory"});
}

TEST_F(WrongKernels, StoreBeforeDynamicSharedMemory) {
  EXPECT_CUDA(launch(1, 32, 100, write_dynamic_at, device_array<int>(32), -1));
  expect_parts(failure(), {"write_dynamic_at", "before its 100 bytes of dynamic shared memory"});
}
#else
// The sanitizer reports the store itself.
TEST_F(WrongKernels, StoresAroundDynamicSharedMemory) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  auto* out = device_array<int>(32);
  for (const int index : {-64, -1, 100, 163}) {
    EXPECT_DEATH(
        {
          launch(1, 32, 100, write_dynamic_at, out, index);
          cudaStreamSynchronize(stream_);
        },
        "AddressSanitizer: use-after-poison.*write_dynamic_at")
        << index;
  }
}
#endif

TEST_F(WrongKernels, FreedMemory) {
  auto* data = device_array<int>(1000);
  free_now(data);
  EXPECT_CUDA(launch(1, 32, 0, write_at, data, int64_t{10}));
  expect_parts(failure(cudaErrorIllegalAddress), {"write_at", "thread (0, 0, 0)", "cuda:0", "freed"});
}

TEST_F(WrongKernels, FarOutOfBounds) {
  EXPECT_CUDA(launch(1, 32, 0, write_at, device_array<int>(1000), int64_t{1} << 31));
  expect_parts(failure(cudaErrorIllegalAddress), {"write_at", "cuda:0"});
}

TEST_F(WrongKernels, MemoryOfAnotherDevice) {
  cudaSetDevice(1);
  auto* data = device_array<int>(1000);
  cudaSetDevice(0);
  EXPECT_CUDA(launch(1, 32, 0, write_at, data, int64_t{10}));
  expect_parts(failure(cudaErrorIllegalAddress), {"cuda:1, byte 40 of an allocation of 4000 bytes"});
}

#ifndef __SANITIZE_THREAD__  // which reports what these do: races_test.cc
// Blocks run on two host threads at once, so what they do to each other shows.
TEST_F(WrongKernels, SumWithoutOrderBetweenBlocks) {
  set_workers(2, /*least_threads=*/0);
  auto* sum = device_array(std::vector<int>{0});
  bool wrong = false;
  for (int attempt = 0; attempt < 50 && !wrong; ++attempt) {
    EXPECT_CUDA(cudaMemsetAsync(sum, 0, sizeof(int), stream_));
    EXPECT_CUDA(launch(20000, 1, 0, add_without_order, sum));
    wrong = host_array(sum, 1)[0] != 20000;
  }
  EXPECT_TRUE(wrong);
}

// By value, in one of the orders at least.
TEST_F(WrongKernels, ForgottenBarrierShowsInSomeOrder) {
  auto* out = device_array<int>(64);
  int num_wrong = 0;
  for (const OrderCase& c : kOrders) {
    set_order(c.order, c.seed);
    EXPECT_CUDA(launch(1, 64, 0, neighbour<true>, out));
    const auto values = host_array(out, 64);
    bool wrong = false;
    for (int i = 0; i < 64; ++i) wrong |= values[i] != 63 - i;
    num_wrong += wrong;
  }
  EXPECT_GE(num_wrong, 3);
}
#endif

TEST_F(WrongKernels, LaunchesThatAreRefused) {
  auto* out = device_array<int>(64);
  EXPECT_EQ(launch(1, 1025, 0, neighbour<false>, out), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, dim3(1, 1, 65), 0, neighbour<false>, out), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(0, 64, 0, neighbour<false>, out), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1, 65536), 64, 0, neighbour<false>, out), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 64, 48 * 1024 + 1, neighbour<false>, out), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(neighbour<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024),
            cudaErrorInvalidValue)
      << "its static shared memory counts too";
  EXPECT_CUDA(cudaFuncSetAttribute(neighbour<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 * 1024));
  EXPECT_CUDA(launch(1, 64, 100 * 1024, neighbour<false>, out));
  EXPECT_EQ(host_array(out, 64)[0], 63);
  cudaSetDevice(1);
  EXPECT_EQ(launch(1, 64, 0, neighbour<false>, out), cudaErrorInvalidResourceHandle) << "a stream of another device";
}

}  // namespace

}  // namespace emulator
