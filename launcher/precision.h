// What the `precision` section means on a device: the dtypes of a run.
#pragma once

#include <string>

#include "core/config/config.h"
#include "core/device/device.h"
#include "core/tensor/dtype.h"
#include "models/transformer.h"

namespace trireme {

struct Precision {
  DType compute = DType::f32;    // of weights, activations and their gradients
  DType gradients = DType::f32;  // of the buffers in which weight gradients are added up and reduced
  DType states = DType::f32;     // of Adam's moments
  bool with_master = true;       // bf16 weights have an fp32 copy; without one they are rounded stochastically

  // Bytes of one parameter.
  int64_t weight_bytes() const { return dtype_bytes(compute); }
  int64_t gradient_bytes() const { return dtype_bytes(gradients); }
  int64_t optimizer_bytes() const;  // moments, and the master where it is a copy of its own

  std::string str() const;  // "compute bf16, master f32, gradients f32, moments f32"

  // A model that trains like this, its state divided as parallel.zero says.
  Transformer::Options model_options(int64_t max_sequence, const ParallelConfig& parallel) const;
};

// `compute: auto` is bf16 where the device's hardware has it, and where `master: none` asks for bf16 weights.
Precision resolve_precision(const Config& config, const Device& device);

}  // namespace trireme
