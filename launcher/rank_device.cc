#include "launcher/rank_device.h"

#include <array>
#include <string>
#include <string_view>

#include "core/device/cpu_features.h"
#include "core/device/cuda/cuda_device.h"
#include "core/error.h"

namespace trireme {

namespace {

// Dense peaks of the data sheets in TFLOP/s, for the first name that a GPU's name contains.
struct Peak {
  const char* name;
  double bf16;
  double fp32;
};
constexpr std::array<Peak, 9> kPeaks = {{{"GB200", 2500, 80},
                                         {"B200", 2250, 75},
                                         {"GH200", 989.4, 66.9},
                                         {"H200", 989.4, 66.9},
                                         {"H100 PCIe", 756, 51.2},
                                         {"H100", 989.4, 66.9},
                                         {"H800", 989.4, 66.9},
                                         {"A100", 312, 19.5},
                                         {"A800", 312, 19.5}}};

// No name is hidden by one before it that it contains.
constexpr bool all_are_found() {
  for (size_t i = 0; i < kPeaks.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (std::string_view(kPeaks[i].name).find(kPeaks[j].name) != std::string_view::npos) return false;
    }
  }
  return true;
}
static_assert(all_are_found());

}  // namespace

RankDevice resolve_device(const Config& config, LocalPlace place) {
  const CommBackend backend = config.parallel.backend;
  RankDevice chosen;
  const bool cuda = config.run.device == DeviceChoice::cuda ||
                    (config.run.device == DeviceChoice::automatic && cuda::num_devices() > 0);
  if (!cuda) {
    if (backend == CommBackend::nccl) {
      throw ConfigError({.what = "parallel.backend: nccl needs GPUs, and this run is on the CPU",
                         .where = "parallel.backend",
                         .hint = "auto"});
    }
    return chosen;
  }
  chosen.backend = backend == CommBackend::automatic ? CommBackend::nccl : backend;
  cuda::require_device(0);
  // A launcher may show each rank a GPU of its own. Where ranks do share one, the nccl backend sees and refuses that.
  chosen.device = Device{DeviceType::cuda, place.rank % cuda::num_devices()};
  return chosen;
}

double RankDevice::peak_flops(DType compute) const {
  if (device.type == DeviceType::cpu) return 0;
  const std::string name = cuda::device_info(device.index).name;
  for (const Peak& peak : kPeaks) {
    if (name.find(peak.name) != std::string::npos) return (compute == DType::bf16 ? peak.bf16 : peak.fp32) * 1e12;
  }
  return 0;
}

std::string RankDevice::str() const {
  if (device.type == DeviceType::cpu) return "cpu (" + cpu_features().str() + ")";
  return device.str() + " (" + cuda::device_info(device.index).name + ")";
}

}  // namespace trireme
