#include "launcher/precision.h"

#include "core/device/cpu_features.h"
#include "core/error.h"

namespace trireme {

namespace {

DType resolve_compute(const Config& config, const Device& device) {
  switch (config.precision.compute) {
    case ComputeType::fp32: return DType::f32;
    case ComputeType::bf16: return DType::bf16;
    case ComputeType::automatic: {
      // Every GPU that this program is built for has bf16 tensor cores.
      const bool is_fast = device.type == DeviceType::cuda || cpu_features().has_fast_bf16();
      return is_fast || config.precision.master == MasterType::none ? DType::bf16 : DType::f32;
    }
    case ComputeType::fp8: break;
  }
  throw ConfigError({.what = "precision.compute: fp8 is not built yet", .hint = "bf16"});
}

DType dtype_of(StateType type) { return type == StateType::bf16 ? DType::bf16 : DType::f32; }

}  // namespace

Precision resolve_precision(const Config& config, const Device& device) {
  Precision p;
  p.compute = resolve_compute(config, device);
  p.gradients = dtype_of(config.precision.gradients);
  p.states = dtype_of(config.precision.optimizer_states);
  p.with_master = config.precision.master == MasterType::fp32;
  return p;
}

int64_t Precision::optimizer_bytes() const {
  const bool is_copy = with_master && compute != DType::f32;
  return 2 * dtype_bytes(states) + (is_copy ? dtype_bytes(DType::f32) : 0);
}

std::string Precision::str() const {
  std::string text = "compute " + dtype_name(compute);
  if (compute != DType::f32) text += with_master ? ", master f32" : ", no master";
  return text + ", gradients " + dtype_name(gradients) + ", moments " + dtype_name(states);
}

Transformer::Options Precision::model_options(int64_t max_sequence, const ParallelConfig& parallel) const {
  return {.compute = compute,
          .gradients = gradients,
          .states = states,
          .max_sequence = max_sequence,
          .zero = static_cast<int>(parallel.zero),
          .with_master = with_master};
}

}  // namespace trireme
