// Microbatches on their way from host memory to the model.
#pragma once

#include <cstdint>

#include "parallel/unit.h"

namespace trireme {

// One microbatch in host memory, i32 [batch, sequence] each.
struct HostMicrobatch {
  int64_t batch = 0;
  int64_t sequence = 0;
  const int32_t* tokens = nullptr;
  const int32_t* labels = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* document_start = nullptr;  // nullptr: attention sees the whole sequence
};

// Copies a microbatch to the stream's device; `loss_sum` f64 [1] is where the loss head adds its losses. Gradients are
// made where `grad_scale` (f32 [1]) is defined.
Microbatch upload(Stream& stream, const HostMicrobatch& host, const Tensor& loss_sum, const Tensor& grad_scale);

// Copies what modules of multi-token prediction are told and asked (Microbatch::ahead), for each of `num_predictors`.
void add_ahead(Stream& stream, const HostMicrobatch& host, int64_t num_predictors, Microbatch& microbatch);

}  // namespace trireme
