// The arithmetic of a reduction over ranks: element by element, in rank order.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor/dtype.h"
#include "parallel/comm/communicator.h"

namespace trireme {

// output[i] = ((inputs[0][i] op inputs[1][i]) op inputs[2][i]) …, in the dtype; bf16 in fp32, rounded once at
// the end. Cutting [0, n) anywhere changes no bit. `output` may be one of the inputs.
void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const void* const> inputs, void* output, int64_t n);

}  // namespace trireme
