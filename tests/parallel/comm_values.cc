#include "tests/parallel/comm_values.h"

#include <gtest/gtest.h>

#include "core/ops/elementwise.h"

namespace trireme {

void store(const Tensor& tensor, int64_t i, int64_t value) {
  switch (tensor.dtype()) {
    case DType::f32: tensor.data<float>()[i] = static_cast<float>(value); break;
    case DType::bf16: tensor.data<bf16>()[i] = bf16(static_cast<float>(value)); break;
    case DType::f64: tensor.data<double>()[i] = static_cast<double>(value); break;
    case DType::i32: tensor.data<int32_t>()[i] = static_cast<int32_t>(value); break;
    case DType::i64: tensor.data<int64_t>()[i] = value; break;
    case DType::u8: tensor.data<uint8_t>()[i] = static_cast<uint8_t>(value); break;
  }
}

int64_t load(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::f32: return static_cast<int64_t>(tensor.data<float>()[i]);
    case DType::bf16: return static_cast<int64_t>(static_cast<float>(tensor.data<bf16>()[i]));
    case DType::f64: return static_cast<int64_t>(tensor.data<double>()[i]);
    case DType::i32: return tensor.data<int32_t>()[i];
    case DType::i64: return tensor.data<int64_t>()[i];
    case DType::u8: return tensor.data<uint8_t>()[i];
  }
  return 0;
}

Tensor fetch(Stream& stream, const Tensor& tensor) {
  if (tensor.device().type == DeviceType::cpu) return tensor;
  const Tensor host = Tensor::empty_on_host(stream, tensor.shape(), tensor.dtype());
  ops::copy_to_host(stream, tensor, host.raw());
  stream.synchronize();
  return host;
}

void put(Stream& stream, const Tensor& host, const Tensor& tensor) {
  if (tensor.device().type == DeviceType::cpu) return;
  Tensor target = tensor;
  ops::copy_from_host(stream, host.raw(), target);
}

Tensor make(Stream& stream, int64_t n, DType dtype, const Formula& formula) {
  const Tensor tensor = Tensor::empty(stream, {n}, dtype);
  const Tensor host = stream.asynchronous() ? Tensor::empty_on_host(stream, {n}, dtype) : tensor;
  for (int64_t i = 0; i < n; ++i) store(host, i, formula(i));
  put(stream, host, tensor);
  return tensor;
}

Tensor make_blank(Stream& stream, int64_t n, DType dtype) {
  return make(stream, n, dtype, [](int64_t) { return 99; });
}

void expect_values(Stream& stream, const Tensor& tensor, const Formula& formula, const std::string& what) {
  const Tensor host = fetch(stream, tensor);
  for (int64_t i = 0; i < host.numel(); ++i) {
    if (load(host, i) == formula(i)) continue;
    ADD_FAILURE() << what << " " << dtype_name(host.dtype()) << host.shape().str() << ": element " << i << " is "
                  << load(host, i) << ", expected " << formula(i);
    return;
  }
}

}  // namespace trireme
