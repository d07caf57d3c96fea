// Whether cuDNN takes the attention of real models on a GPU that isn't here: cuDNN makes plans for a GPU that is described
// to it, up to the loading of the kernels. For program_test.sh, which puts the toolkit's stub of libcuda.so.1 in reach.
//
//   attention_plans a100|h200|b200
#include <cmath>
#include <cstdio>
#include <map>
#include <string>

#include "core/ops/cuda/attention_cudnn.h"

namespace {

using trireme::cuda::DescribedGpu;
using trireme::ops::AttentionShape;

// What differs between GPUs of NVIDIA's data sheets and programming guide (compute capabilities 8.0, 9.0 and 10.0).
DescribedGpu describe(const std::string& name, int compute_capability, int multiprocessors, int shared_bytes) {
  return {R"({"deviceName": ")" + name + R"(", "cudaDeviceId": 0, "deviceVer": )" + std::to_string(compute_capability) +
              R"(, "driverVer": 13000, "multiProcessorCount": )" + std::to_string(multiprocessors) +
              R"(, "maxSharedMemoryPerBlockOptin": )" + std::to_string(shared_bytes) + R"(,
    "maxSharedMemoryPerBlock": 49152, "reservedSharedMemoryPerBlock": 1024, "maxGridSize": [2147483647, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64], "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "maxCtasPerSM": 32,
    "warpSize": 32, "regsPerBlock": 65536, "maxRegistersPerSM": 65536, "totalGlobalMem": 85899345920,
    "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1})",
          compute_capability};
}

AttentionShape shape(int64_t batch, int64_t sequence, int64_t heads, int64_t kv_heads, int64_t dim) {
  return {batch, sequence, heads, kv_heads, dim, static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)))};
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, DescribedGpu> gpus = {{"a100", describe("NVIDIA A100", 800, 108, 166912)},
                                                    {"h200", describe("NVIDIA H200", 900, 132, 232448)},
                                                    {"b200", describe("NVIDIA B200", 1000, 148, 232448)}};
  const auto gpu = gpus.find(argc > 1 ? argv[1] : "");
  if (gpu == gpus.end()) {
    std::fprintf(stderr, "usage: attention_plans a100|h200|b200\n");
    return 2;
  }
  int failures = 0;
  const auto expect = [&](bool taken, const std::string& what, const AttentionShape& call, bool documents) {
    const std::string refusal =
        trireme::cuda::cudnn_attention_refusal_of(gpu->second, call, trireme::DType::bf16, documents);
    const bool right = refusal.empty() == taken;
    failures += right ? 0 : 1;
    std::printf("%s %s: %s\n", right ? "ok" : "FAILED", what.c_str(), refusal.empty() ? "taken" : refusal.c_str());
  };
  expect(true, "Llama 3 8B", shape(8, 1024, 32, 8, 128), false);
  expect(true, "Llama 3 8B with documents", shape(8, 1024, 32, 8, 128), true);
  expect(true, "GPT-2 of an odd length, with documents", shape(3, 1001, 12, 12, 64), true);
  expect(false, "heads that are too wide", shape(2, 256, 2, 1, 256), false);
  return failures == 0 ? 0 : 1;
}
