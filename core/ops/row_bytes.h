// Parts of rows, whatever they mean: for tensors that carry others in further columns.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// Bytes [y_begin, y_begin + num_bytes) of each row of y = bytes [x_begin, x_begin + num_bytes) of that row of x. x and y are
// matrices with equally many rows, of any dtypes; they don't overlap. All three numbers are even, and so are the bytes of a
// row of each.
void copy_row_bytes(Stream& stream, const Tensor& x, int64_t x_begin, Tensor& y, int64_t y_begin, int64_t num_bytes);

}  // namespace trireme::ops
