#include "core/ops/elementwise.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"

namespace trireme::ops {

namespace {

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

void check_f32(const Stream& stream, std::string_view op, std::string_view name, const Tensor& x) {
  check_tensor(stream, op, name, x, DType::f32, x.shape());
}

}  // namespace

void fill(Stream& stream, Tensor& x, double value) {
  check_tensor(stream, "fill", "x", x, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, fill(stream, x, value));
}

void copy(Stream& stream, const Tensor& x, Tensor& y) {
  check_tensor(stream, "copy", "x", x, x.dtype(), x.shape());
  check_tensor(stream, "copy", "y", y, x.dtype(), y.shape());
  check_same_count("copy", x, y);
  TRIREME_DISPATCH(stream, copy(stream, x, y));
}

void cast(Stream& stream, const Tensor& x, Tensor& y) {
  check_tensor(stream, "cast", "x", x, x.dtype(), x.shape());
  check_tensor(stream, "cast", "y", y, y.dtype(), y.shape());
  check_same_count("cast", x, y);
  TRIREME_CHECK(is_float(x.dtype()) && is_float(y.dtype()), "cast: f32 and bf16 only");
  TRIREME_DISPATCH(stream, cast(stream, x, y));
}

void add(Stream& stream, const Tensor& a, const Tensor& b, Tensor& y) {
  check_tensor(stream, "add", "a", a, a.dtype(), a.shape());
  check_tensor(stream, "add", "b", b, a.dtype(), b.shape());
  check_tensor(stream, "add", "y", y, a.dtype(), y.shape());
  check_same_count("add", a, b);
  check_same_count("add", a, y);
  TRIREME_CHECK(is_float(a.dtype()), "add: f32 and bf16 only");
  TRIREME_DISPATCH(stream, add(stream, a, b, y));
}

void accumulate(Stream& stream, const Tensor& x, Tensor& y, bool accumulate) {
  check_f32(stream, "accumulate", "x", x);
  check_float(stream, "accumulate", "y", y, y.shape());
  check_same_count("accumulate", x, y);
  TRIREME_DISPATCH(stream, accumulate(stream, x, y, accumulate));
}

void scale(Stream& stream, Tensor& x, float factor) {
  check_f32(stream, "scale", "x", x);
  TRIREME_DISPATCH(stream, scale(stream, x, factor));
}

void sum(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  check_f32(stream, "sum", "x", x);
  check_tensor(stream, "sum", "out", out, DType::f64, {1});
  TRIREME_DISPATCH(stream, sum(stream, x, out, accumulate));
}

void sum_squares(Stream& stream, const Tensor& x, Tensor& out, bool accumulate) {
  check_float(stream, "sum_squares", "x", x, x.shape());
  check_tensor(stream, "sum_squares", "out", out, DType::f64, {1});
  TRIREME_DISPATCH(stream, sum_squares(stream, x, out, accumulate));
}

void copy_to_host(Stream& stream, const Tensor& x, void* host) {
  check_tensor(stream, "copy_to_host", "x", x, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, copy_to_host(stream, x, host));
}

void copy_from_host(Stream& stream, const void* host, Tensor& x) {
  check_tensor(stream, "copy_from_host", "x", x, x.dtype(), x.shape());
  TRIREME_DISPATCH(stream, copy_from_host(stream, host, x));
}

}  // namespace trireme::ops
