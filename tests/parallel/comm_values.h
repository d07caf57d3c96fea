// Tensors with known elements, on any device, for the conformance cases of communicators.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace trireme {

inline constexpr DType kCommDTypes[] = {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8};
inline constexpr ReduceOp kReduceOps[] = {ReduceOp::sum, ReduceOp::max, ReduceOp::min};
// Large enough for several chunks; sanitizers make every element ten times dearer.
#ifdef TRIREME_SANITIZED
inline constexpr int64_t kLong = 5003;
inline constexpr int64_t kRough = 30011;
#else
inline constexpr int64_t kLong = 40009;
inline constexpr int64_t kRough = 400009;
#endif
inline constexpr int64_t kCommSizes[] = {0, 1, 17, 1000, kLong};

// Small whole numbers: every partial sum over at most 16 ranks is exact in every dtype.
inline int64_t value_of(int rank, int64_t i) { return (static_cast<int64_t>(rank) * 7 + i * 3) % 11; }

// One element of a host tensor.
void store(const Tensor& tensor, int64_t i, int64_t value);
int64_t load(const Tensor& tensor, int64_t i);

// The elements where the host can touch them, and back: the tensor itself on the CPU, a copy for a GPU.
Tensor fetch(Stream& stream, const Tensor& tensor);
void put(Stream& stream, const Tensor& host, const Tensor& tensor);

// By the place of the element.
using Formula = std::function<int64_t(int64_t)>;

Tensor make(Stream& stream, int64_t n, DType dtype, const Formula& formula);
Tensor make_blank(Stream& stream, int64_t n, DType dtype);  // of 99
// One failure per tensor, not per element.
void expect_values(Stream& stream, const Tensor& tensor, const Formula& formula, const std::string& what);

}  // namespace trireme
