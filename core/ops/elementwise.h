// Passes over whole tensors: fill, copy, cast, add, sums.
//
// Sums run over blocks of fixed size whose results are added in order, so that the bits do not depend on the number of
// threads.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// Every element = value. Any dtype.
void fill(Stream& stream, Tensor& x, double value);
// y = x, same dtype and number of elements, both on the stream's device.
void copy(Stream& stream, const Tensor& x, Tensor& y);
// y = x between f32 and bf16 (round to nearest even).
void cast(Stream& stream, const Tensor& x, Tensor& y);
// y = a + b; f32 or bf16; y may alias either.
void add(Stream& stream, const Tensor& a, const Tensor& b, Tensor& y);
// y = x or y += x, with `accumulate` (weight gradients that a fused kernel left in a temporary). x f32; y f32, or bf16
// whose sum with x is formed in fp32 and rounded to nearest.
void accumulate(Stream& stream, const Tensor& x, Tensor& y, bool accumulate);
// x *= factor, f32.
void scale(Stream& stream, Tensor& x, float factor);
// out[0] (+)= Σ x in fp64. x f32; out f64 [1].
void sum(Stream& stream, const Tensor& x, Tensor& out, bool accumulate);
// out[0] (+)= Σ x² in fp64. x f32 or bf16; out f64 [1].
void sum_squares(Stream& stream, const Tensor& x, Tensor& out, bool accumulate);

// Copies between host memory and a tensor on the stream's device (the same memory on the CPU).
void copy_to_host(Stream& stream, const Tensor& x, void* host);    // the data is there after stream.synchronize()
void copy_from_host(Stream& stream, const void* host, Tensor& x);  // `host` may be reused on return

}  // namespace trireme::ops
