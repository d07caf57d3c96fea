#include "core/ops/check.h"

namespace trireme::ops {

namespace {

std::string describe(DType dtype, const Shape& shape) { return dtype_name(dtype) + " " + shape.str(); }

void check_place(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor) {
  if (!tensor.defined()) fail_argument(op, name, "is undefined");
  if (tensor.device() != stream.device()) {
    fail_argument(op, name, "is on " + tensor.device().str() + ", the stream on " + stream.device().str());
  }
}

}  // namespace

void fail_argument(std::string_view op, std::string_view name, std::string_view text) {
  throw BugError({.what = std::string(op) + ": " + std::string(name) + " " + std::string(text)});
}

void check_tensor(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor, DType dtype,
                  const Shape& shape) {
  check_place(stream, op, name, tensor);
  if (tensor.dtype() != dtype || !(tensor.shape() == shape)) [[unlikely]] {
    throw BugError({.what = std::string(op) + ": " + std::string(name) + " does not fit the other arguments",
                    .expected = describe(dtype, shape),
                    .found = describe(tensor.dtype(), tensor.shape())});
  }
}

void check_float(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor,
                 const Shape& shape) {
  check_place(stream, op, name, tensor);
  const bool is_float = tensor.dtype() == DType::f32 || tensor.dtype() == DType::bf16;
  if (!is_float || !(tensor.shape() == shape)) [[unlikely]] {
    throw BugError({.what = std::string(op) + ": " + std::string(name) + " does not fit the other arguments",
                    .expected = "f32 or bf16, " + shape.str(),
                    .found = describe(tensor.dtype(), tensor.shape())});
  }
}

void check_float_matrix(const Stream& stream, std::string_view op, std::string_view name, const Tensor& tensor) {
  check_place(stream, op, name, tensor);
  if (tensor.ndim() != 2 || (tensor.dtype() != DType::f32 && tensor.dtype() != DType::bf16)) [[unlikely]] {
    throw BugError({.what = std::string(op) + ": " + std::string(name) + " is no matrix of numbers",
                    .expected = "f32 or bf16, two dims",
                    .found = describe(tensor.dtype(), tensor.shape())});
  }
}

void check_part(std::string_view op, const VocabularyPart& part, int64_t width) {
  if (part.first < 0 || part.size < 0 || part.size > width) [[unlikely]] {
    throw BugError({.what = std::string(op) + ": a part of the vocabulary that does not fit",
                    .expected = "at most " + std::to_string(width) + " entries",
                    .found = std::to_string(part.size) + " from " + std::to_string(part.first) + " on"});
  }
}

void check_same_count(std::string_view op, const Tensor& a, const Tensor& b) {
  if (a.numel() != b.numel()) [[unlikely]] {
    throw BugError({.what = std::string(op) + ": tensors of different size",
                    .expected = a.shape().str(),
                    .found = b.shape().str()});
  }
}

}  // namespace trireme::ops
