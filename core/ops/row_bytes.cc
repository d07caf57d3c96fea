#include "core/ops/row_bytes.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

void check_stretch(const Stream& stream, std::string_view name, const Tensor& x, int64_t begin, int64_t num_bytes) {
  constexpr std::string_view kOp = "copy_row_bytes";
  check_tensor(stream, kOp, name, x, x.dtype(), x.shape());
  if (x.ndim() != 2) fail_argument(kOp, name, "is no matrix: " + x.shape().str());
  const int64_t row_bytes = x.dim(1) * dtype_bytes(x.dtype());
  if (begin < 0 || num_bytes < 0 || begin + num_bytes > row_bytes || begin % 2 + num_bytes % 2 + row_bytes % 2 != 0) {
    fail_argument(kOp, name, "has no such bytes: " + std::to_string(num_bytes) + " from " + std::to_string(begin));
  }
}

}  // namespace

void copy_row_bytes(Stream& stream, const Tensor& x, int64_t x_begin, Tensor& y, int64_t y_begin, int64_t num_bytes) {
  check_stretch(stream, "x", x, x_begin, num_bytes);
  check_stretch(stream, "y", y, y_begin, num_bytes);
  if (x.dim(0) != y.dim(0)) fail_argument("copy_row_bytes", "y", "has another number of rows: " + y.shape().str());
  TRIREME_DISPATCH(stream, copy_row_bytes(stream, x, x_begin, y, y_begin, num_bytes));
}

}  // namespace trireme::ops
