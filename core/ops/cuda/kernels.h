// The ops on a GPU. Each queues its work on the stream (a CudaStream) and returns.
//
// Sums are cut by constants of the kernel and added in a fixed order, without floating-point atomics: the same call gives
// the same bits, run after run.
#pragma once

#include "core/ops/activation.h"
#include "core/ops/adamw.h"
#include "core/ops/attention.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/latent_heads.h"
#include "core/ops/light_experts.h"
#include "core/ops/norm.h"
#include "core/ops/router.h"
#include "core/ops/vocabulary_part.h"
#include "core/tensor/tensor.h"

namespace trireme::cuda {

#include "core/ops/kernel_list.inc"

}  // namespace trireme::cuda
