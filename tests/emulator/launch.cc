// Launches: what is refused, and how the blocks of a grid are shared by host threads.
#include <cstdio>
#include <numeric>

#include "tests/emulator/api.h"
#include "tests/emulator/helper_thread.h"
#include "tests/emulator/kernel_info.h"
#include "tests/emulator/race.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

namespace {

constexpr int kMostStaticBytes = 48 << 10;

class Launch final : public Operation {
 public:
  Launch(const Grid& grid, std::unique_ptr<const Body> body, int device)
      : Operation(grid.kernel->name.c_str(), device_bit(device)), grid_(grid), body_(std::move(body)) {
    grid_.body = body_.get();
  }

  void run(StreamThread& thread) override {
    tallies().launches.fetch_add(1, std::memory_order_relaxed);
    const Failure failure = run_grid(grid_, devices(), thread);
    if (!failure.message.empty()) throw OperationFailed{failure.message, failure.error};
  }

 private:
  Grid grid_;
  std::unique_ptr<const Body> body_;
};

cudaError_t check_shape(const cudaLaunchConfig_t& config) {
  const dim3& grid = config.gridDim;
  const dim3& block = config.blockDim;
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  const bool good = threads >= 1 && threads <= kMaxBlockThreads && block.x <= 1024 && block.y <= 1024 &&
                    block.z <= 64 && grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu &&
                    grid.y <= 65535 && grid.z <= 65535;
  return good ? cudaSuccess : cudaErrorInvalidConfiguration;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const Body* body) {
  std::unique_ptr<const Body> owned(body);
  return api("cudaLaunchKernelEx", [&] {
    Stream* stream = find_stream(config.stream);
    if (stream == nullptr || stream->device != current_device()) return cudaErrorInvalidResourceHandle;
    if (config.numAttrs != 0) return cudaErrorNotSupported;
    const cudaError_t error = check_shape(config);
    if (error != cudaSuccess) return error;
    const KernelInfo& info = kernel_info(kernel);
    if (config.dynamicSmemBytes > static_cast<size_t>(info.max_dynamic_bytes.load()) ||
        config.dynamicSmemBytes + info.static_bytes > static_cast<size_t>(settings().shared_limit)) {
      return cudaErrorInvalidValue;
    }
    if (info.static_bytes > kMostStaticBytes) {  // nvcc would have refused to compile it
      std::fprintf(stderr, "emulator: %s has %zu bytes of static shared memory, more than %d\n", info.name.c_str(),
                   info.static_bytes, kMostStaticBytes);
      return cudaErrorInvalidValue;
    }
    Grid grid;
    grid.kernel = &info;
    grid.grid = config.gridDim;
    grid.block = config.blockDim;
    grid.dynamic_bytes = config.dynamicSmemBytes;
    enqueue(*stream, std::make_unique<Launch>(grid, std::move(owned), stream->device));
    return cudaSuccess;
  });
}

}  // namespace emulator

extern "C" cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return emulator::api("cudaFuncSetAttribute", [&] {
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
    emulator::KernelInfo& info = emulator::kernel_info(kernel);
    if (value < 0 || value > emulator::settings().shared_limit - static_cast<int>(info.static_bytes)) {
      return cudaErrorInvalidValue;
    }
    info.max_dynamic_bytes.store(value);
    return cudaSuccess;
  });
}
