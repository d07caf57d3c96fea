// What ThreadSanitizer finds with the emulator's help: every order that is missing, and none where nothing is.
#include "tests/emulator/selftest/races.h"

#include <array>
#include <iterator>

#include "tests/emulator/selftest/fixture.h"

namespace emulator {

namespace {

enum class Waits { missing, present };

// ThreadSanitizer reports two places in the program once, so each test and each order of threads has kernels of its own
// (kCase).

template <int kCase>
__global__ void fill(int* data, int value) {
  data[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
template <int kCase>
__global__ void add(const int* in, int* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[i] + 1;
}

template <bool kAtomic, int kCase>
__global__ void count_blocks(int* counter) {
  if (threadIdx.x != 0) return;
  if (kAtomic) {
    atomicAdd(counter, 1);
  } else {
    *counter += 1;
  }
}

// Reads what another thread of the block wrote. kGood: behind a barrier.
template <bool kGood, int kCase>
__global__ void other_warp(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = 1;
  if (kGood) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = slots[63 - threadIdx.x];
}

// The second barrier is missing: a slot is written again before all have read it.
template <bool kGood, int kCase>
__global__ void write_again(int* out) {
  __shared__ int slot;
  int sum = 0;
  for (unsigned i = 0; i < 4; ++i) {
    if (threadIdx.x == i) slot = static_cast<int>(i);
    __syncthreads();
    sum += slot;
    if (kGood) __syncthreads();
  }
  out[blockIdx.x * 64 + threadIdx.x] = sum;
}

template <bool kGood, int kCase>
__global__ void other_lane(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = 1;
  if (kGood) __syncwarp();
  out[blockIdx.x * 64 + threadIdx.x] = slots[threadIdx.x ^ 1];
}

// Half warps that exchange among themselves, and, unless kGood, with each other.
template <bool kGood, int kCase>
__global__ void half_warps(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = 1;
  __syncwarp((threadIdx.x & 16) != 0 ? 0xffff0000u : 0x0000ffffu);
  out[blockIdx.x * 64 + threadIdx.x] = slots[threadIdx.x ^ (kGood ? 8 : 16)];
}

// Shuffles and ballots exchange registers; they order no accesses to memory.
template <bool kGood, int kCase>
__global__ void shuffle_orders_nothing(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = 1;
  const int other = __shfl_xor_sync(0xffffffffu, slots[threadIdx.x], 1);
  if (kGood) __syncwarp();
  out[blockIdx.x * 64 + threadIdx.x] = slots[threadIdx.x ^ 2] + other;
}

template <bool kGood, int kCase>
__global__ void ballot_orders_nothing(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = 1;
  const unsigned lanes = __ballot_sync(0xffffffffu, slots[threadIdx.x] == 1);
  if (kGood) __syncwarp();
  out[blockIdx.x * 64 + threadIdx.x] = slots[threadIdx.x ^ 2] + static_cast<int>(lanes);
}

template <bool kGood, int kCase>
__global__ void through_dynamic(int* out) {
  int* slots = reinterpret_cast<int*>(trireme_dynamic_shared);
  for (int round = 0; round < 3; ++round) {
    slots[threadIdx.x] = round;
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = slots[63 - threadIdx.x];
    if (kGood) __syncthreads();
  }
}

using Kernel = void (*)(int*);
using KernelOfOrders = std::array<Kernel, std::size(kOrders)>;

#define KERNELS(kernel)                                                                            \
  (good() ? KernelOfOrders{&kernel<true, 0>, &kernel<true, 1>, &kernel<true, 2>, &kernel<true, 3>} \
          : KernelOfOrders{&kernel<false, 0>, &kernel<false, 1>, &kernel<false, 2>, &kernel<false, 3>})

class Races : public EmulatorTest, public ::testing::WithParamInterface<Waits> {
 protected:
  void SetUp() override {
    EmulatorTest::SetUp();
    other_ = new_stream();
    data_ = device_array(std::vector<int>(4096, 0));
    result_ = device_array(std::vector<int>(4096, 0));
    EXPECT_CUDA(cudaStreamSynchronize(stream_));
    EXPECT_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    reports_before_ = num_reports();
  }

  void TearDown() override {
    cudaStreamSynchronize(stream_);
    cudaStreamSynchronize(other_);
    if (GetParam() == Waits::missing) {
      EXPECT_GT(num_reports(), reports_before_) << "the race was not seen";
    } else {
      EXPECT_EQ(num_reports(), reports_before_) << "there is no race";
    }
    EXPECT_CUDA(cudaEventDestroy(event_));
    EmulatorTest::TearDown();
  }

  bool good() const { return GetParam() == Waits::present; }

  // Launches one of the kernels in every order of threads. What is missing must be seen in all.
  void in_all_orders(const KernelOfOrders& kernels, int* out) {
    for (size_t i = 0; i < kernels.size(); ++i) {
      set_order(kOrders[i].order, kOrders[i].seed);
      const int before = num_reports();
      EXPECT_CUDA(launch(4, 64, 256, kernels[i], out));
      EXPECT_CUDA(cudaStreamSynchronize(stream_));
      EXPECT_EQ(num_reports() > before, !good()) << kOrders[i].name;
    }
  }

  cudaStream_t other_ = nullptr;
  cudaEvent_t event_ = nullptr;
  int* data_ = nullptr;
  int* result_ = nullptr;

 private:
  int reports_before_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Waits, Races, ::testing::Values(Waits::missing, Waits::present),
                         [](const auto& of) { return of.param == Waits::missing ? "missing" : "present"; });

TEST_P(Races, StreamWaitsForStream) {
  EXPECT_CUDA(launch(4, 256, 0, fill<1>, data_, 1));
  if (good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
    EXPECT_CUDA(cudaStreamWaitEvent(other_, event_));
  }
  std::swap(stream_, other_);
  EXPECT_CUDA(launch(4, 256, 0, add<1>, data_, result_));
}

TEST_P(Races, StreamWaitsForTheRightRecord) {
  if (!good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));  // too early
  }
  EXPECT_CUDA(launch(4, 256, 0, fill<2>, data_, 1));
  if (good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
  }
  EXPECT_CUDA(cudaStreamWaitEvent(other_, event_));
  std::swap(stream_, other_);
  EXPECT_CUDA(launch(4, 256, 0, add<2>, data_, result_));
}

TEST_P(Races, CopyWaitsForSet) {
  EXPECT_CUDA(cudaMemsetAsync(data_, 1, 4096, stream_));
  if (good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
    EXPECT_CUDA(cudaStreamWaitEvent(other_, event_));
  }
  EXPECT_CUDA(cudaMemcpyAsync(result_, data_, 4096, cudaMemcpyDeviceToDevice, other_));
}

TEST_P(Races, HostWaitsForDownload) {
  int* pinned = nullptr;
  EXPECT_CUDA(cudaHostAlloc(&pinned, 4096, cudaHostAllocDefault));
  EXPECT_CUDA(cudaMemcpyAsync(pinned, data_, 4096, cudaMemcpyDeviceToHost, stream_));
  if (good()) {
    EXPECT_CUDA(cudaStreamSynchronize(stream_));
  }
  EXPECT_NE(pinned[5], 77);
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_CUDA(cudaFreeHost(pinned));
}

TEST_P(Races, HostWaitsForAnEvent) {
  int* pinned = nullptr;
  EXPECT_CUDA(cudaHostAlloc(&pinned, 4096, cudaHostAllocDefault));
  if (!good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
  }
  EXPECT_CUDA(cudaMemcpyAsync(pinned, data_, 4096, cudaMemcpyDeviceToHost, stream_));
  if (good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
    while (cudaEventQuery(event_) != cudaSuccess) {
    }
  } else {
    EXPECT_CUDA(cudaEventSynchronize(event_));
  }
  EXPECT_NE(pinned[5], 77);
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_CUDA(cudaFreeHost(pinned));
}

TEST_P(Races, HostKeepsPinnedMemoryUntilTheUploadIsDone) {
  int* pinned = nullptr;
  EXPECT_CUDA(cudaHostAlloc(&pinned, 4096, cudaHostAllocDefault));
  EXPECT_CUDA(cudaMemcpyAsync(data_, pinned, 4096, cudaMemcpyHostToDevice, stream_));
  if (good()) {
    EXPECT_CUDA(cudaStreamSynchronize(stream_));
  }
  pinned[3] = 5;
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_CUDA(cudaFreeHost(pinned));
}

TEST_P(Races, LibraryCallsAreOrderedAsKernels) {
  EXPECT_CUDA(launch(4, 256, 0, fill<7>, data_, 1));
  if (good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
    EXPECT_CUDA(cudaStreamWaitEvent(other_, event_));
  }
  submit(other_, "library call", [data = data_, result = result_] {
    for (int i = 0; i < 1000; ++i) result[i] = data[i];
  });
}

TEST_P(Races, GraphsAreOrderedAsTheirOperations) {
  EXPECT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  EXPECT_CUDA(launch(4, 256, 0, fill<8>, data_, 1));
  EXPECT_CUDA(launch(4, 256, 0, add<8>, data_, data_));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  EXPECT_CUDA(cudaStreamEndCapture(stream_, &graph));
  EXPECT_CUDA(cudaGraphInstantiate(&exec, graph));
  EXPECT_CUDA(cudaGraphLaunch(exec, stream_));
  if (good()) {
    EXPECT_CUDA(cudaEventRecord(event_, stream_));
    EXPECT_CUDA(cudaStreamWaitEvent(other_, event_));
  }
  EXPECT_CUDA(cudaGraphLaunch(exec, other_));
  EXPECT_CUDA(cudaGraphExecDestroy(exec));
  EXPECT_CUDA(cudaGraphDestroy(graph));
}

TEST_P(Races, BlocksAddAtomically) { in_all_orders(KERNELS(count_blocks), data_); }

TEST_P(Races, BarrierBetweenThreads) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(other_warp), result_);
}

TEST_P(Races, BarrierBeforeWritingAgain) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(write_again), result_);
}

TEST_P(Races, SyncwarpBetweenLanes) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(other_lane), result_);
}

TEST_P(Races, SyncwarpOfHalfAWarp) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(half_warps), result_);
}

TEST_P(Races, ShuffleOrdersNoMemory) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(shuffle_orders_nothing), result_);
}

TEST_P(Races, BallotOrdersNoMemory) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(ballot_orders_nothing), result_);
}

TEST_P(Races, SharedMemoryOfOneBlockAfterAnother) {
  set_races(emulator::Races::blocks);
  in_all_orders(KERNELS(through_dynamic), result_);
}

TEST_P(Races, LaunchesOfOneStream) {
  set_races(emulator::Races::blocks);
  for (int i = 0; i < 10; ++i) {
    EXPECT_CUDA(launch(4, 64, 0, fill<16>, data_, i));
    EXPECT_CUDA(launch(8, 32, 0, add<16>, data_, result_));
    EXPECT_CUDA(cudaMemcpyAsync(data_, result_, 1024, cudaMemcpyDeviceToDevice, stream_));
  }
  if (!good()) {
    std::swap(stream_, other_);
    EXPECT_CUDA(launch(4, 64, 0, fill<16>, data_, 1));
  }
}

}  // namespace

}  // namespace emulator
