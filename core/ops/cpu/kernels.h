// The ops on the CPU. Work is cut by constants of the kernel, never by the number of threads.
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

namespace trireme::cpu {

#include "core/ops/kernel_list.inc"

}  // namespace trireme::cpu
