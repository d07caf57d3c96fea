#include "tests/unit/op_fixture.h"

#include <cmath>
#include <limits>

#include "core/device/cuda/cuda_device.h"
#include "core/ops/elementwise.h"
#include "core/ops/gemm_algorithms.h"
#include "core/random/philox.h"

namespace trireme::testing {

TestStream::TestStream(Device device, int num_threads) {
  pool_ = std::make_unique<ThreadPool>(num_threads);
  if (device.type == DeviceType::cpu) {
    allocator_ = std::make_unique<CpuAllocator>();
    stream_ = std::make_unique<CpuStream>(*allocator_, *pool_);
  } else {
    allocator_ = cuda::make_device_allocator(device.index);
    pinned_ = cuda::make_pinned_allocator(device.index);
    stream_ = cuda::make_stream(device.index, *allocator_, *pinned_, *pool_);
  }
}

TestStream::~TestStream() = default;

std::vector<Device> test_devices() {
  std::vector<Device> devices{Device{}};
  if (cuda::num_devices() > 0) devices.push_back({DeviceType::cuda, 0});
  return devices;
}

std::string test_device_name(const ::testing::TestParamInfo<Device>& info) {
  return info.param.type == DeviceType::cpu ? "Cpu" : "Cuda";
}

Values normal_values(int64_t count, const std::string& name, double spread) {
  const uint64_t key = random_key(1, name);
  Values values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = spread * normal_at(key, i);
  return values;
}

std::vector<int32_t> uniform_ids(int64_t count, int64_t bound, const std::string& name) {
  const uint64_t key = random_key(2, name);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(uniform_below(key, i, static_cast<uint64_t>(bound)));
  }
  return ids;
}

namespace {

template <class T>
Tensor upload(Stream& stream, DType dtype, Shape shape, const std::vector<T>& values) {
  TRIREME_CHECK(static_cast<int64_t>(values.size()) == shape.numel());
  Tensor t = Tensor::empty(stream, shape, dtype);
  ops::copy_from_host(stream, values.data(), t);
  return t;
}

template <class T>
Values download(Stream& stream, const Tensor& tensor) {
  std::vector<T> host(static_cast<size_t>(tensor.numel()));
  ops::copy_to_host(stream, tensor, host.data());
  stream.synchronize();
  Values values(host.size());
  for (size_t i = 0; i < host.size(); ++i) {
    if constexpr (std::is_same_v<T, bf16>) {
      values[i] = static_cast<double>(static_cast<float>(host[i]));
    } else {
      values[i] = static_cast<double>(host[i]);
    }
  }
  return values;
}

}  // namespace

Tensor make_tensor(Stream& stream, DType dtype, Shape shape, const Values& values) {
  switch (dtype) {
    case DType::f32: return upload(stream, dtype, shape, std::vector<float>(values.begin(), values.end()));
    case DType::f64: return upload(stream, dtype, shape, values);
    case DType::i32: return upload(stream, dtype, shape, std::vector<int32_t>(values.begin(), values.end()));
    case DType::i64: return upload(stream, dtype, shape, std::vector<int64_t>(values.begin(), values.end()));
    case DType::u8: return upload(stream, dtype, shape, std::vector<uint8_t>(values.begin(), values.end()));
    case DType::bf16: break;
  }
  std::vector<bf16> rounded;
  for (const double v : values) rounded.push_back(bf16(static_cast<float>(v)));
  return upload(stream, dtype, shape, rounded);
}

Tensor make_ids(Stream& stream, const std::vector<int32_t>& ids) {
  return upload(stream, DType::i32, {static_cast<int64_t>(ids.size())}, ids);
}

Tensor make_unset(Stream& stream, DType dtype, Shape shape) {
  Tensor t = Tensor::empty(stream, shape, dtype);
  const std::vector<std::byte> ones(static_cast<size_t>(t.bytes()), std::byte{0xFF});  // a NaN in every float type
  ops::copy_from_host(stream, ones.data(), t);
  return t;
}

Values read_values(Stream& stream, const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::f32: return download<float>(stream, tensor);
    case DType::bf16: return download<bf16>(stream, tensor);
    case DType::f64: return download<double>(stream, tensor);
    case DType::i32: return download<int32_t>(stream, tensor);
    case DType::i64: return download<int64_t>(stream, tensor);
    case DType::u8: return download<uint8_t>(stream, tensor);
  }
  return {};
}

std::vector<std::byte> read_bytes(Stream& stream, const Tensor& tensor) {
  std::vector<std::byte> host(static_cast<size_t>(tensor.bytes()));
  ops::copy_to_host(stream, tensor, host.data());
  stream.synchronize();
  return host;
}

void expect_close(const Values& got, const Values& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double squares = 0;
  for (const double w : want) squares += w * w;
  const double rms = want.empty() ? 0 : std::sqrt(squares / static_cast<double>(want.size()));
  size_t worst = 0;
  double worst_error = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double scale = std::abs(want[i]) + rms;
    double error = std::abs(got[i] - want[i]);
    if (error != 0) error /= scale;  // 0/0 counts as equal, anything else against 0 does not
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error > worst_error) {
      worst_error = error;
      worst = i;
    }
  }
  EXPECT_LE(worst_error, tolerance) << what << ": element " << worst << " of " << want.size() << " is " << got[worst]
                                    << ", should be " << want[worst];
}

Values gradient_of(const std::function<double(const Values&)>& loss, const Values& x, double step) {
  Values moved = x;
  Values gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    moved[i] = x[i] + step;
    const double up = loss(moved);
    moved[i] = x[i] - step;
    gradient[i] = (up - loss(moved)) / (2 * step);
    moved[i] = x[i];
  }
  return gradient;
}

double dot(const Values& a, const Values& b) {
  TRIREME_CHECK(a.size() == b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Values plus(const Values& a, double factor, const Values& b) {
  TRIREME_CHECK(a.size() == b.size());
  Values sum(a.size());
  for (size_t i = 0; i < a.size(); ++i) sum[i] = a[i] + factor * b[i];
  return sum;
}

double OpTest::tolerance(DType dtype, OpKind kind) const { return testing::tolerance(GetParam().type, dtype, kind); }

void OpTest::expect_same_bits_on_any_pool(const std::function<std::vector<Tensor>(Stream&)>& body) {
  std::vector<std::vector<std::byte>> first;
  std::string algorithms;  // those that the first stream has chosen by timing
  for (const int num_threads : {1, 3}) {
    TestStream other(GetParam(), num_threads);
    ops::import_gemm_algorithms(other.get(), algorithms);
    const std::vector<Tensor> results = body(other.get());
    algorithms = ops::export_gemm_algorithms(other.get());
    for (size_t i = 0; i < results.size(); ++i) {
      const std::vector<std::byte> bytes = read_bytes(other.get(), results[i]);
      if (num_threads == 1) {
        first.push_back(bytes);
      } else {
        EXPECT_TRUE(bytes == first[i]) << "result " << i << " has other bits in a second run, on " << num_threads
                                       << " threads";
      }
    }
  }
}

}  // namespace trireme::testing
