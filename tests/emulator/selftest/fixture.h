// Two emulated devices, one stream, and what goes wrong in kernels as text.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/emulator/emulator.h"
#include "tests/emulator/stream.h"

namespace emulator {

#define EXPECT_CUDA(call) EXPECT_EQ(call, cudaSuccess) << cudaGetErrorName(cudaPeekAtLastError())

class EmulatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    set_num_devices(2);
    cudaSetDevice(0);
    stream_ = new_stream();
    set_failure_handler([this](const std::string& message) {
      failures_.push_back(message);  // read after a wait for the stream
    });
  }

  void TearDown() override {
    clear_errors();
    cudaSetDevice(0);
    for (cudaStream_t stream : streams_) {
      cudaStreamSynchronize(stream);
      EXPECT_CUDA(cudaStreamDestroy(stream));
    }
    for (void* data : blocks_) EXPECT_CUDA(cudaFree(data));
    set_failure_handler({});
    set_order(Order::forward);
    set_workers(2);
    set_races(Races::streams);
    set_num_devices(0);
  }

  cudaStream_t new_stream() {
    cudaStream_t stream = nullptr;
    EXPECT_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0));
    streams_.push_back(stream);
    return stream;
  }

  template <class T>
  T* device_array(size_t count) {
    T* data = nullptr;
    EXPECT_CUDA(cudaMalloc(&data, count * sizeof(T)));
    blocks_.push_back(data);
    return data;
  }

  template <class T>
  T* device_array(const std::vector<T>& values) {
    T* data = device_array<T>(values.size());
    EXPECT_CUDA(cudaMemcpyAsync(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream_));
    return data;
  }

  template <class T>
  std::vector<T> host_array(const T* data, size_t count) {
    std::vector<T> values(count);
    EXPECT_CUDA(cudaMemcpyAsync(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    return values;
  }

  template <class... Params, class... Args>
  cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Params...), Args... args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    return cudaLaunchKernelEx(&config, kernel, args...);
  }

  void free_now(void* data) {
    std::erase(blocks_, data);
    EXPECT_CUDA(cudaFree(data));
  }

  cudaStream_t stream_ = nullptr;
  std::vector<std::string> failures_;

 private:
  std::vector<cudaStream_t> streams_;
  std::vector<void*> blocks_;
};

// For kernels whose result must not depend on the order of blocks and threads.
struct OrderCase {
  Order order;
  uint64_t seed;
  const char* name;
};
inline const OrderCase kOrders[] = {{Order::forward, 0, "forward"},
                                    {Order::reversed, 0, "reversed"},
                                    {Order::seeded, 1, "seeded1"},
                                    {Order::seeded, 2, "seeded2"}};

class EmulatorOrderTest : public EmulatorTest, public ::testing::WithParamInterface<OrderCase> {
 protected:
  void SetUp() override {
    EmulatorTest::SetUp();
    set_order(GetParam().order, GetParam().seed);
  }
};

}  // namespace emulator
