// Kernels that do the same to every element: `for_elements` over a flat range, `for_rows` over the elements of a matrix.
//
// An Op is a struct of pointers and constants with
//   template <int kN> __device__ void run(int64_t i) const;                  // elements [i, i + kN)
//   template <int kN> __device__ void run(int64_t row, int64_t column) const;
// for kN = 1 and kN = the width asked for, which the caller has found its addresses fit for (is_aligned).
// Include from .cu files only.
#pragma once

#include "core/device/cuda/launch.h"
#include "core/ops/cuda/vector.h"

namespace trireme::cuda {

inline constexpr int kElementThreads = 256;

template <int kWidth, class Op>
__global__ void __launch_bounds__(kElementThreads) run_elements(Op op, int64_t n) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x) * kWidth;
  if (i + kWidth <= n) {
    op.template run<kWidth>(i);
  } else if constexpr (kWidth > 1) {
    for (int64_t last = i; last < n; ++last) op.template run<1>(last);
  }
}

// Calls op.run on [0, n), kWidth elements at a time (one, unless `aligned`).
template <int kWidth, class Op>
void for_elements(Stream& stream, int64_t n, bool aligned, const Op& op) {
  const int64_t threads = aligned ? ceil_div(n, kWidth) : n;
  const unsigned blocks = grid_size(ceil_div(threads, kElementThreads));
  launch(stream, blocks, kElementThreads, 0, aligned ? run_elements<kWidth, Op> : run_elements<1, Op>, op, n);
}

// Division of numbers below 2³¹ by one that the host knows: a multiplication and a shift (Granlund & Montgomery 1994).
class Divider {
 public:
  explicit Divider(uint32_t divisor) : divisor_(divisor) {
    while ((uint64_t{1} << log_) < divisor) ++log_;
    factor_ = static_cast<uint32_t>(((uint64_t{1} << (31 + log_)) + divisor - 1) / divisor);
  }
  __device__ __forceinline__ uint32_t divisor() const { return divisor_; }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * factor_) >> (31 + log_));
  }

 private:
  uint32_t divisor_;
  uint32_t factor_ = 0;
  uint32_t log_ = 0;  // rounded up
};

template <int kWidth, class Op>
__global__ void __launch_bounds__(kElementThreads) run_rows(Op op, Divider per_row, uint32_t count, int64_t first_row) {
  const uint32_t item = blockIdx.x * kElementThreads + threadIdx.x;
  if (item >= count) return;
  const uint32_t row = per_row.quotient(item);
  const uint32_t column = (item - row * per_row.divisor()) * kWidth;
  op.template run<kWidth>(first_row + row, column);
}

// Calls op.run on every element of [rows, columns], kWidth of a row at a time (one, unless `aligned`, which says that
// the columns are a multiple of kWidth, too).
template <int kWidth, class Op>
void for_rows(Stream& stream, int64_t rows, int64_t columns, bool aligned, const Op& op) {
  const int64_t per_row = aligned ? columns / kWidth : columns;
  if (rows == 0 || per_row == 0) return;
  constexpr int64_t kMost = INT32_MAX - kElementThreads;  // of one launch
  TRIREME_CHECK(per_row <= kMost, "a row of too many elements for one launch");
  const int64_t rows_at_once = kMost / per_row;
  for (int64_t first = 0; first < rows; first += rows_at_once) {
    const int64_t count = std::min(rows - first, rows_at_once) * per_row;
    launch(stream, grid_size(ceil_div(count, kElementThreads)), kElementThreads, 0,
           aligned ? run_rows<kWidth, Op> : run_rows<1, Op>, op, Divider(static_cast<uint32_t>(per_row)),
           static_cast<uint32_t>(count), first);
  }
}

}  // namespace trireme::cuda
