#include "core/tensor/tensor.h"

#include "core/device/out_of_memory.h"

namespace trireme {

int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32: return 4;
    case DType::bf16: return 2;
    case DType::f64: return 8;
    case DType::i32: return 4;
    case DType::i64: return 8;
    case DType::u8: return 1;
  }
  return 0;
}

std::string dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f64: return "f64";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::u8: return "u8";
  }
  return "?";
}

Shape::Shape(std::span<const int64_t> dims) : ndim_(static_cast<int>(dims.size())) {
  TRIREME_CHECK(dims.size() <= kMaxDims);
  for (size_t i = 0; i < dims.size(); ++i) {
    TRIREME_CHECK(dims[i] >= 0);
    dims_[i] = dims[i];
  }
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (const int64_t d : dims()) n *= d;
  return n;
}

std::string Shape::str() const {
  std::string out = "[";
  for (int i = 0; i < ndim_; ++i) out += (i > 0 ? ", " : "") + std::to_string((*this)[i]);
  return out + "]";
}

bool Shape::operator==(const Shape& other) const { return ndim_ == other.ndim_ && dims_ == other.dims_; }

Tensor Tensor::allocate(Allocator& allocator, Shape shape, DType dtype, MemoryTag tag) {
  Tensor t;
  t.dtype_ = dtype;
  t.shape_ = shape;
  t.device_ = allocator.device();
  try {
    t.storage_ = allocator.allocate(shape.numel() * dtype_bytes(dtype), tag);
  } catch (const OutOfMemory& error) {
    throw OutOfMemory({.what = "no room for a tensor " + dtype_name(dtype) + shape.str() + ": " + error.what()});
  }
  t.data_ = t.storage_->data();
  return t;
}

Tensor Tensor::empty(Stream& stream, Shape shape, DType dtype, MemoryTag tag) {
  return allocate(stream.allocator(), shape, dtype, tag);
}

Tensor Tensor::empty_on_host(Stream& stream, Shape shape, DType dtype) {
  return allocate(stream.host_allocator(), shape, dtype, MemoryTag::workspace);
}

Tensor Tensor::borrow(void* data, Shape shape, DType dtype) {
  Tensor t;
  t.dtype_ = dtype;
  t.shape_ = shape;
  t.data_ = static_cast<std::byte*>(data);
  t.defined_empty_ = true;
  return t;
}

Tensor Tensor::view(Shape shape) const {
  TRIREME_CHECK(shape.numel() == numel(), "view with another number of elements");
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  TRIREME_CHECK(ndim() >= 1 && 0 <= begin && begin <= end && end <= dim(0));
  std::array<int64_t, Shape::kMaxDims> dims{};
  int64_t row = 1;
  for (int i = 0; i < ndim(); ++i) {
    dims[static_cast<size_t>(i)] = dim(i);
    if (i > 0) row *= dim(i);
  }
  dims[0] = end - begin;
  return flat_slice(begin * row, Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(ndim()))));
}

Tensor Tensor::flat_slice(int64_t offset, Shape shape) const {
  TRIREME_CHECK(offset >= 0 && offset + shape.numel() <= numel(), "slice outside the tensor");
  Tensor t = *this;
  t.shape_ = shape;
  t.data_ = data_ + offset * dtype_bytes(dtype_);
  return t;
}

}  // namespace trireme
