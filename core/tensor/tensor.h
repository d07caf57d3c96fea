// A contiguous n-dimensional array on a device: a dtype, a shape and a place in a storage.
//
// Copying a tensor copies the handle, not the elements. Views (`view`, `slice`) share the storage.
// All sizes are int64 element counts unless named `_bytes`.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device/allocator.h"
#include "core/device/device.h"
#include "core/error.h"
#include "core/tensor/dtype.h"

namespace trireme {

// Up to four dims, by value.
class Shape {
 public:
  static constexpr int kMaxDims = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims);

  int ndim() const { return ndim_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t numel() const;
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(ndim_)}; }
  std::string str() const;  // "[2, 3]"
  bool operator==(const Shape& other) const;

 private:
  int ndim_ = 0;
  std::array<int64_t, kMaxDims> dims_{};
};

class Tensor {
 public:
  Tensor() = default;  // undefined: defined() is false

  // Uninitialised memory from the stream's allocator.
  static Tensor empty(Stream& stream, Shape shape, DType dtype, MemoryTag tag = MemoryTag::activations);
  // Uninitialised host memory that the stream's device copies from and to without waiting (Stream::host_allocator).
  static Tensor empty_on_host(Stream& stream, Shape shape, DType dtype);
  // Wraps memory that somebody else keeps alive (host memory only).
  static Tensor borrow(void* data, Shape shape, DType dtype);

  bool defined() const { return data_ != nullptr || defined_empty_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int ndim() const { return shape_.ndim(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t numel() const { return shape_.numel(); }
  int64_t bytes() const { return numel() * dtype_bytes(dtype_); }
  Device device() const { return device_; }

  void* raw() const { return data_; }
  // REQUIRES: T matches dtype().
  template <class T>
  T* data() const {
    TRIREME_CHECK(DTypeOf<std::remove_const_t<T>>::value == dtype_, "tensor read as another dtype");
    return static_cast<T*>(static_cast<void*>(data_));
  }

  // REQUIRES: the same number of elements.
  Tensor view(Shape shape) const;
  // Rows [begin, end) of dim 0.
  Tensor slice(int64_t begin, int64_t end) const;
  // `shape.numel()` elements from flat element `offset` on.
  Tensor flat_slice(int64_t offset, Shape shape) const;

 private:
  static Tensor allocate(Allocator& allocator, Shape shape, DType dtype, MemoryTag tag);

  std::shared_ptr<Storage> storage_;
  std::byte* data_ = nullptr;
  bool defined_empty_ = false;
  DType dtype_ = DType::f32;
  Shape shape_;
  Device device_;
};

}  // namespace trireme
