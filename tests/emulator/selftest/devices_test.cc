// Machines without a driver or device, errors that are injected, and what stays of an error.
#include <cuda_profiler_api.h>

#include "tests/emulator/selftest/fixture.h"

namespace emulator {

namespace {

__global__ void nothing() {}

class Devices : public EmulatorTest {
 protected:
  void TearDown() override {
    set_driver_version(13000);
    set_num_devices(2);
    EmulatorTest::TearDown();
    set_driver_version(-1);
  }
};

TEST_F(Devices, NoDriver) {
  set_num_devices(0);
  int number = 7;
  EXPECT_EQ(cudaGetDeviceCount(&number), cudaErrorInsufficientDriver);
  EXPECT_EQ(number, 0);
  EXPECT_CUDA(cudaDriverGetVersion(&number));
  EXPECT_EQ(number, 0);
  EXPECT_CUDA(cudaRuntimeGetVersion(&number));
  EXPECT_EQ(number, 13000);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 4), cudaErrorInsufficientDriver);
  EXPECT_EQ(cudaSetDevice(0), cudaErrorInsufficientDriver);
}

TEST_F(Devices, OldDriver) {
  set_driver_version(12040);
  int number = 7;
  EXPECT_EQ(cudaGetDeviceCount(&number), cudaErrorInsufficientDriver);
  EXPECT_CUDA(cudaDriverGetVersion(&number));
  EXPECT_EQ(number, 12040);
}

TEST_F(Devices, DriverWithoutDevice) {
  set_num_devices(0);
  set_driver_version(13000);
  int number = 7;
  EXPECT_EQ(cudaGetDeviceCount(&number), cudaErrorNoDevice);
  EXPECT_EQ(number, 0);
}

TEST_F(Devices, AreDescribed) {
  int number = 0;
  EXPECT_CUDA(cudaGetDeviceCount(&number));
  EXPECT_EQ(number, 2);
  cudaDeviceProp properties;
  EXPECT_CUDA(cudaGetDeviceProperties(&properties, 1));
  EXPECT_EQ(properties.major, 9);
  EXPECT_CUDA(cudaDeviceGetAttribute(&number, cudaDevAttrMultiProcessorCount, 1));
  EXPECT_EQ(number, properties.multiProcessorCount);
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(-1), cudaErrorInvalidDevice);
  EXPECT_CUDA(cudaSetDevice(1));
  EXPECT_CUDA(cudaGetDevice(&number));
  EXPECT_EQ(number, 1);
}

TEST_F(Devices, FailWhenTold) {
  fail_next("cudaMalloc", cudaErrorMemoryAllocation, /*skip=*/1);
  fail_next("cudaLaunchKernelEx", cudaErrorLaunchOutOfResources);
  device_array<float>(1);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 4), cudaErrorMemoryAllocation);
  device_array<float>(1);
  EXPECT_EQ(launch(1, 1, 0, nothing), cudaErrorLaunchOutOfResources);
  EXPECT_CUDA(launch(1, 1, 0, nothing));
}

TEST_F(Devices, DieAlone) {
  fail_device(1, cudaErrorECCUncorrectable);
  EXPECT_CUDA(launch(1, 1, 0, nothing));
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_CUDA(cudaSetDevice(1));
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 4), cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaGetLastError(), cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorECCUncorrectable);
}

TEST_F(Devices, ErrorsHaveNames) {
  EXPECT_STREQ(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  EXPECT_STREQ(cudaGetErrorString(cudaSuccess), "no error");
}

TEST_F(Devices, CountTheProfilersBrackets) {
  const Counters before = counters();
  EXPECT_CUDA(cudaProfilerStart());
  EXPECT_CUDA(cudaProfilerStop());
  EXPECT_EQ(counters().profiler_starts, before.profiler_starts + 1);
  EXPECT_EQ(counters().profiler_stops, before.profiler_stops + 1);
}

}  // namespace

}  // namespace emulator
