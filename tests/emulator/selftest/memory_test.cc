// Device memory: its limits, what new memory holds, and who may not touch it.
#include <thread>

#include "tests/emulator/selftest/fixture.h"
#include "tests/emulator/selftest/gate.h"

namespace emulator {

namespace {

__global__ void store(float* data, int64_t index) { data[index] = 1; }
__global__ void add(const float* in, float* out) { out[threadIdx.x] += in[threadIdx.x]; }

float look_at(const volatile float* data) { return *data; }

class Memory : public EmulatorTest {
 protected:
  void SetUp() override {
    EmulatorTest::SetUp();
    ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  }
  void TearDown() override {
    EmulatorTest::TearDown();
    set_memory_limit(int64_t{4} << 30);
  }
};

TEST_F(Memory, IsNaNAtFirst) {
  const auto words = host_array(device_array<uint32_t>(5000), 5000);
  for (const uint32_t word : words) ASSERT_EQ(word, 0xffffffffu);
}

TEST_F(Memory, IsLimited) {
  set_memory_limit(1 << 20);
  size_t free = 0;
  size_t total = 0;
  EXPECT_CUDA(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(total, 1u << 20);
  EXPECT_EQ(free, 1u << 20);
  device_array<char>(600000);
  void* data = &data;
  EXPECT_EQ(cudaMalloc(&data, 600000), cudaErrorMemoryAllocation);
  EXPECT_EQ(data, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_CUDA(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, (1u << 20) - 600000);
  cudaSetDevice(1);
  device_array<char>(600000);  // of the other device there is enough
}

TEST_F(Memory, IsCounted) {
  const Counters before = counters();
  auto* data = device_array<float>(100);
  void* pinned = nullptr;
  EXPECT_CUDA(cudaHostAlloc(&pinned, 123, cudaHostAllocDefault));
  EXPECT_EQ(counters().allocations, before.allocations + 1);
  EXPECT_EQ(counters().allocated_bytes, before.allocated_bytes + 400);
  EXPECT_EQ(counters().pinned_bytes, before.pinned_bytes + 123);
  free_now(data);
  EXPECT_CUDA(cudaFreeHost(pinned));
  EXPECT_EQ(counters().allocated_bytes, before.allocated_bytes);
  EXPECT_EQ(counters().pinned_bytes, before.pinned_bytes);
}

TEST_F(Memory, KnowsItsPointers) {
  auto* data = device_array<float>(100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 256, 0u);
  int local = 0;
  EXPECT_EQ(pointer_device(data + 50), 0);
  EXPECT_EQ(pointer_device(&local), -1);
  EXPECT_TRUE(is_device_range(data + 50, 200));
  EXPECT_FALSE(is_device_range(data + 50, 201));
  EXPECT_EQ(cudaFree(data + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(&local), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(&local), cudaErrorInvalidValue);
  EXPECT_CUDA(cudaFree(nullptr));
  free_now(data);
  EXPECT_EQ(cudaFree(data), cudaErrorInvalidValue) << "freed twice";
}

TEST_F(Memory, AddressesAreNotUsedAgainSoon) {
  auto* first = device_array<float>(100);
  free_now(first);
  EXPECT_NE(device_array<float>(100), first);
}

TEST_F(Memory, LargeAllocationsLieApart) {
  for (const size_t bytes : {size_t{2} << 20, (size_t{6} << 20) + 4, size_t{1} << 20}) {
    auto* data = device_array<char>(bytes);
    auto* next = device_array<char>(bytes);
    EXPECT_GE(static_cast<size_t>(next - data), bytes + 4096);
    EXPECT_FALSE(is_device_range(data, bytes + 1));
    EXPECT_EQ(host_array(data + bytes - 1, 1)[0], '\xff');
  }
}

TEST_F(Memory, FreeWaitsForWork) {
  auto* data = device_array<float>(100);
  Gate gate(stream_);
  EXPECT_CUDA(launch(1, 1, 0, store, data, int64_t{5}));
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    gate.open();
  });
  free_now(data);
  EXPECT_CUDA(cudaStreamQuery(stream_));
  opener.join();
}

TEST_F(Memory, CopiesThatAreRefused) {
  auto* data = device_array<float>(10);
  float host[11] = {};
  EXPECT_EQ(cudaMemcpyAsync(data, host, 44, cudaMemcpyHostToDevice, stream_), cudaErrorInvalidValue) << "too long";
  EXPECT_EQ(cudaMemcpyAsync(data, host, 40, cudaMemcpyDeviceToHost, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(host, data, 40, cudaMemcpyHostToDevice, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(data, host, 40, cudaMemcpyDeviceToDevice, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(data, 0, 41, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 4, stream_), cudaErrorInvalidValue);
  EXPECT_CUDA(cudaMemcpyAsync(data, host, 40, cudaMemcpyDefault, stream_));
}

TEST_F(Memory, CopiesBetweenDevices) {
  auto* data = device_array(std::vector<float>{1, 2, 3});
  cudaSetDevice(1);
  auto* far = device_array<float>(3);
  cudaSetDevice(0);
  EXPECT_CUDA(cudaMemcpyAsync(far, data, 12, cudaMemcpyDeviceToDevice, stream_));
  EXPECT_EQ(host_array(far, 3), (std::vector<float>{1, 2, 3}));
}

using MemoryDeath = Memory;

TEST_F(MemoryDeath, HostReads) {
  auto* data = device_array(std::vector<float>(100, 1.0f));
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_DEATH(look_at(data + 3), "host code touches device memory .cuda:0, byte 12 of an allocation of 400 bytes");
}

TEST_F(MemoryDeath, HostWritesToNewMemory) {
  auto* data = device_array<float>(100);
  EXPECT_DEATH(*static_cast<volatile float*>(data) = 1, "host code touches device memory .cuda:0, byte 0 of");
}

TEST_F(MemoryDeath, HostReadsAfterAnEvent) {
  auto* data = device_array(std::vector<float>(100, 1.0f));
  EXPECT_CUDA(launch(1, 100, 0, add, data, data));
  cudaEvent_t event;
  EXPECT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  EXPECT_CUDA(cudaEventRecord(event, stream_));
  EXPECT_CUDA(cudaEventSynchronize(event));
  EXPECT_CUDA(cudaEventDestroy(event));
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_DEATH(look_at(data + 99), "host code touches device memory");
}

TEST_F(MemoryDeath, HostReadsWhileAStreamWorks) {
  if (protection() == Protection::pages) return;  // where the CPU has no protection keys, that is not seen
  auto* data = device_array(std::vector<float>(100, 1.0f));
  Gate gate(stream_);
  EXPECT_DEATH(look_at(data + 3), "host code touches device memory");
}

#ifdef __SANITIZE_ADDRESS__
TEST_F(MemoryDeath, OneElementTooFar) {
  auto* data = device_array<float>(100);
  EXPECT_DEATH(
      {
        launch(1, 1, 0, store, data, int64_t{100});
        cudaStreamSynchronize(stream_);
      },
      "use-after-poison(.|\n)*memory_test.cc");
}

TEST_F(MemoryDeath, OneElementBefore) {
  device_array<float>(100);
  auto* data = device_array<float>(100);
  EXPECT_DEATH(
      {
        launch(1, 1, 0, store, data, int64_t{-1});
        cudaStreamSynchronize(stream_);
      },
      "use-after-poison(.|\n)*memory_test.cc");
}
#endif

}  // namespace

}  // namespace emulator
