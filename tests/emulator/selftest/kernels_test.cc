// Threads of a block, warps and shared memory do what they do on a GPU, in every order.
#include <cuda_bf16.h>

#include <cmath>
#include <numeric>

#include "tests/emulator/selftest/fixture.h"

namespace emulator {

namespace {

__global__ void write_indices(uint4* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] =
      make_uint4(blockIdx.x, blockIdx.y * 100 + blockIdx.z, threadIdx.x, threadIdx.y * 100 + threadIdx.z);
}

// Sums of a block's numbers through static shared memory, round after round.
__global__ void block_sums(const float* in, float* out) {
  __shared__ float slots[256];
  const unsigned t = threadIdx.x;
  slots[t] = in[blockIdx.x * 256 + t];
  for (unsigned half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) slots[t] += slots[t + half];
  }
  if (t == 0) out[blockIdx.x] = slots[0];
}

__global__ void reverse_dynamic(const int* in, int* out) {
  int* slots = reinterpret_cast<int*>(trireme_dynamic_shared);
  slots[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = slots[blockDim.x - 1 - threadIdx.x];
}

__device__ float helper_sum(float value) {
  __shared__ float slots[32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? slots[threadIdx.x % 32] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

template <int kScale>
__global__ void warp_sums(const float* in, float* out) {
  const float sum = helper_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = sum * kScale;
}

__global__ void shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int* row = out + 8 * lane;
  row[0] = __shfl_sync(0xffffffffu, lane, 5);
  row[1] = __shfl_sync(0xffffffffu, lane, 3, 8);
  row[2] = __shfl_xor_sync(0xffffffffu, lane, 9);
  row[3] = __shfl_down_sync(0xffffffffu, lane, 4);
  row[4] = __shfl_down_sync(0xffffffffu, lane, 2, 8);
  row[5] = __shfl_up_sync(0xffffffffu, lane, 3);
  row[6] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
  row[7] = static_cast<int>(__shfl_sync(0xffffffffu, static_cast<double>(lane) * 0.5, lane ^ 1) * 2);
}

// Both halves of a warp by themselves, with different numbers of operations.
__global__ void half_warps(int* out) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) {
    for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(0x0000ffffu, value, offset);
  } else {
    value = __shfl_sync(0xffff0000u, value, 20);
  }
  out[threadIdx.x] = value;
}

// Lanes of a warp exchange through shared memory.
__global__ void through_shared(int* out) {
  __shared__ int slots[64];
  slots[threadIdx.x] = static_cast<int>(threadIdx.x) * 3;
  __syncwarp();
  out[threadIdx.x] = slots[threadIdx.x ^ 1];
}

__global__ void stale_shared(float* out) {
  __shared__ float slots[32];
  float* dynamic = reinterpret_cast<float*>(trireme_dynamic_shared);
  out[(blockIdx.x * 32 + threadIdx.x) * 2] = slots[threadIdx.x];
  out[(blockIdx.x * 32 + threadIdx.x) * 2 + 1] = dynamic[threadIdx.x];
  slots[threadIdx.x] = 1.0f;
  dynamic[threadIdx.x] = 2.0f;
}

__global__ void count(int* counter) { atomicAdd(counter, 1); }

__global__ void to_bf16(const float* in, __nv_bfloat162* out) {
  out[threadIdx.x] = __floats2bfloat162_rn(in[2 * threadIdx.x], in[2 * threadIdx.x + 1]);
}

using Kernels = EmulatorOrderTest;

INSTANTIATE_TEST_SUITE_P(Orders, Kernels, ::testing::ValuesIn(kOrders),
                         [](const auto& of) { return std::string(of.param.name); });

std::vector<float> small_numbers(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 13) - 5;
  return values;
}

TEST_P(Kernels, HaveTheirIndices) {
  const dim3 grid(3, 2, 2);
  const dim3 block(4, 3, 2);
  auto* out = device_array<uint4>(12 * 24);
  EXPECT_CUDA(launch(grid, block, 0, write_indices, out));
  const auto values = host_array(out, 12 * 24);
  for (unsigned i = 0; i < values.size(); ++i) {
    const unsigned b = i / 24;
    const unsigned t = i % 24;
    EXPECT_EQ(values[i].x, b % 3);
    EXPECT_EQ(values[i].y, b / 3 % 2 * 100 + b / 6);
    EXPECT_EQ(values[i].z, t % 4);
    EXPECT_EQ(values[i].w, t / 4 % 3 * 100 + t / 12);
  }
}

TEST_P(Kernels, MeetAtBarriers) {
  const auto in = small_numbers(40 * 256);
  auto* out = device_array<float>(40);
  EXPECT_CUDA(launch(40, 256, 0, block_sums, device_array(in), out));
  const auto sums = host_array(out, 40);
  for (size_t b = 0; b < 40; ++b) {
    EXPECT_EQ(sums[b], std::accumulate(in.begin() + b * 256, in.begin() + (b + 1) * 256, 0.0f));
  }
}

TEST_P(Kernels, ShareDynamicMemory) {
  std::vector<int> in(1024);
  std::iota(in.begin(), in.end(), 0);
  auto* out = device_array<int>(1024);
  EXPECT_CUDA(launch(1, 1024, 4096, reverse_dynamic, device_array(in), out));
  const auto values = host_array(out, 1024);
  for (int i = 0; i < 1024; ++i) EXPECT_EQ(values[i], 1023 - i);
}

TEST_P(Kernels, SumOverWarps) {
  const auto in = small_numbers(20 * 128);
  auto* out = device_array<float>(20);
  EXPECT_CUDA(launch(20, 128, 0, warp_sums<3>, device_array(in), out));
  const auto sums = host_array(out, 20);
  for (size_t b = 0; b < 20; ++b) {
    EXPECT_EQ(sums[b], 3 * std::accumulate(in.begin() + b * 128, in.begin() + (b + 1) * 128, 0.0f));
  }
}

TEST_P(Kernels, Shuffle) {
  auto* out = device_array<int>(32 * 8);
  EXPECT_CUDA(launch(1, 32, 0, shuffles, out));
  const auto rows = host_array(out, 32 * 8);
  for (int lane = 0; lane < 32; ++lane) {
    const int* row = &rows[8 * lane];
    EXPECT_EQ(row[0], 5);
    EXPECT_EQ(row[1], lane / 8 * 8 + 3);
    EXPECT_EQ(row[2], lane ^ 9);
    EXPECT_EQ(row[3], lane + 4 < 32 ? lane + 4 : lane);
    EXPECT_EQ(row[4], lane % 8 + 2 < 8 ? lane + 2 : lane);
    EXPECT_EQ(row[5], lane >= 3 ? lane - 3 : lane);
    EXPECT_EQ(row[6], 0x49249249);
    EXPECT_EQ(row[7], lane ^ 1);
  }
}

TEST_P(Kernels, ShuffleInPartsOfAWarp) {
  auto* out = device_array<int>(32);
  EXPECT_CUDA(launch(1, 32, 0, half_warps, out));
  const auto values = host_array(out, 32);
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(values[lane], lane < 16 ? 120 : 20);
}

TEST_P(Kernels, ExchangeWithinAWarp) {
  auto* out = device_array<int>(64);
  EXPECT_CUDA(launch(1, 64, 0, through_shared, out));
  const auto values = host_array(out, 64);
  for (int t = 0; t < 64; ++t) EXPECT_EQ(values[t], (t ^ 1) * 3);
}

TEST_P(Kernels, FindNothingInSharedMemory) {
  auto* out = device_array<float>(50 * 64);
  EXPECT_CUDA(launch(50, 32, 128, stale_shared, out));
  for (const float value : host_array(out, 50 * 64)) EXPECT_TRUE(std::isnan(value));
}

TEST_P(Kernels, CountAtomically) {
  auto* counter = device_array(std::vector<int>{0});
  EXPECT_CUDA(launch(dim3(100, 2), dim3(10, 9), 0, count, counter));
  EXPECT_EQ(host_array(counter, 1)[0], 100 * 2 * 90);
}

TEST_P(Kernels, RoundToBf16) {
  const std::vector<float> in = {1.0f, -2.0f, 1.00390625f, 1.01171875f, 3.4e38f, NAN, -0.0f, 1e-40f};
  auto* out = device_array<__nv_bfloat162>(4);
  EXPECT_CUDA(launch(1, 4, 0, to_bf16, device_array(in), out));
  const auto pairs = host_array(out, 4);
  EXPECT_EQ(__bfloat162float(pairs[0].x), 1.0f);
  EXPECT_EQ(__bfloat162float(pairs[0].y), -2.0f);
  EXPECT_EQ(__bfloat162float(pairs[1].x), 1.0f);  // a tie, to even
  EXPECT_EQ(__bfloat162float(pairs[1].y), 1.015625f);
  EXPECT_TRUE(std::isinf(__bfloat162float(pairs[2].x)));
  EXPECT_EQ(__bfloat16_as_ushort(pairs[2].y), 0x7fff);
  EXPECT_EQ(__bfloat16_as_ushort(pairs[3].x), 0x8000);
  EXPECT_EQ(__bfloat1622float2(pairs[3]).y, __bfloat162float(__ushort_as_bfloat16(1)));
}

}  // namespace

}  // namespace emulator
