// Floating-point numbers as integers of the same order, for maxima and minima that see NaN: an integer maximum of the
// keys is the key of the maximum, and NaN is the largest key (or the smallest, as asked). -0 comes before +0.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::cuda {

// f32, bf16 and f64 have keys.
bool has_order_keys(DType dtype);
// i32, or i64 for f64.
DType order_key_dtype(DType dtype);

// `keys` and `values` have the same number of elements, on the stream's GPU.
void to_order_keys(Stream& stream, const Tensor& values, bool nan_is_largest, const Tensor& keys);
void from_order_keys(Stream& stream, const Tensor& keys, const Tensor& values);

}  // namespace trireme::cuda
