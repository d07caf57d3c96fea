#include <cstring>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"

namespace trireme::cpu {

void copy_row_bytes(Stream& stream, const Tensor& x, int64_t x_begin, Tensor& y, int64_t y_begin, int64_t num_bytes) {
  const int64_t x_row = x.dim(1) * dtype_bytes(x.dtype());
  const int64_t y_row = y.dim(1) * dtype_bytes(y.dtype());
  const auto* from = static_cast<const std::byte*>(x.raw()) + x_begin;
  auto* to = static_cast<std::byte*>(y.raw()) + y_begin;
  stream.pool().for_ranges(x.dim(0), rows_per_piece(num_bytes / 2), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(to + r * y_row, from + r * x_row, static_cast<size_t>(num_bytes));
    }
  });
}

}  // namespace trireme::cpu
