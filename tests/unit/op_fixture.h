// The frame of the op tests: a device with a stream, tensors from vectors of fp64 and back, comparison with references.
//
// A test that derives from OpTest runs once for each device (TRIREME_OP_DEVICES). Every test works on values as the op
// sees them (rounded to the dtype), so that a tolerance speaks of the op's arithmetic alone.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/device/allocator.h"
#include "core/device/device.h"
#include "core/device/thread_pool.h"
#include "core/tensor/tensor.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {

// A device's allocator, pool and stream together.
class TestStream {
 public:
  TestStream(Device device, int num_threads);
  ~TestStream();
  Stream& get() { return *stream_; }

 private:
  std::unique_ptr<Allocator> allocator_;
  std::unique_ptr<Allocator> pinned_;  // for a GPU
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Stream> stream_;
};

// The CPU, and a GPU where this machine and build have one.
std::vector<Device> test_devices();
std::string test_device_name(const ::testing::TestParamInfo<Device>& info);

using Values = std::vector<double>;

// `count` normal numbers times `spread`, the same for the same name.
Values normal_values(int64_t count, const std::string& name, double spread = 1.0);
std::vector<int32_t> uniform_ids(int64_t count, int64_t bound, const std::string& name);

Tensor make_tensor(Stream& stream, DType dtype, Shape shape, const Values& values);
Tensor make_ids(Stream& stream, const std::vector<int32_t>& ids);
// Full of NaN (or of −1, for integers): what an op forgets to write shows.
Tensor make_unset(Stream& stream, DType dtype, Shape shape);
Values read_values(Stream& stream, const Tensor& tensor);
std::vector<std::byte> read_bytes(Stream& stream, const Tensor& tensor);

// Fails with the worst element where |got − want| > tolerance · (|want| + rms(want)).
void expect_close(const Values& got, const Values& want, double tolerance, const std::string& what);

// The gradient of loss(x) by central differences.
Values gradient_of(const std::function<double(const Values&)>& loss, const Values& x, double step = 1e-5);
double dot(const Values& a, const Values& b);
Values plus(const Values& a, double factor, const Values& b);

class OpTest : public ::testing::TestWithParam<Device> {
 protected:
  OpTest() : stream_(GetParam(), 3) {}
  Stream& stream() { return stream_.get(); }

  Tensor tensor(DType dtype, Shape shape, const Values& values) { return make_tensor(stream(), dtype, shape, values); }
  Tensor normal(DType dtype, Shape shape, const std::string& name, double spread = 1.0) {
    return tensor(dtype, shape, normal_values(shape.numel(), name, spread));
  }
  Tensor i32(Shape shape, const std::vector<int32_t>& values) {
    return tensor(DType::i32, shape, Values(values.begin(), values.end()));
  }
  Tensor unset(DType dtype, Shape shape) { return make_unset(stream(), dtype, shape); }
  Values read(const Tensor& t) { return read_values(stream(), t); }

  // How far results of an op may be from the reference on this device.
  double tolerance(DType dtype, OpKind kind) const;

  // Runs `body` with pools of 1 and 3 threads: the tensors that it returns must have the same bits. On a GPU, where the
  // pool has no part in it, that is one run after the other.
  void expect_same_bits_on_any_pool(const std::function<std::vector<Tensor>(Stream&)>& body);

 private:
  TestStream stream_;
};

}  // namespace trireme::testing

#define TRIREME_OP_DEVICES(Suite)                                                              \
  INSTANTIATE_TEST_SUITE_P(On, Suite, ::testing::ValuesIn(::trireme::testing::test_devices()), \
                           ::trireme::testing::test_device_name)
