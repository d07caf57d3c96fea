// The emulated cuBLAS: grouped products against sums of integers, and what it must refuse.
#include <cublas_v2.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "tests/emulator/emulator.h"

namespace trireme {
namespace {

// Column-major c [m, n] = op(a)·op(b) + beta·c of small integers, which bf16 holds.
struct Product {
  int m, n, k;
  int padding = 0;  // elements behind each column
};

class Cublas : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::set_num_devices(1);
    cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, 0);
    ASSERT_EQ(cublasCreate(&handle_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasSetStream(handle_, stream_), CUBLAS_STATUS_SUCCESS);
  }
  void TearDown() override {
    EXPECT_EQ(cublasDestroy(handle_), CUBLAS_STATUS_SUCCESS);
    for (void* block : blocks_) cudaFree(block);
    cudaStreamDestroy(stream_);
    emulator::set_num_devices(0);
  }

  void* device_copy(const void* host, size_t bytes) {
    void* block = nullptr;
    EXPECT_EQ(cudaMalloc(&block, bytes), cudaSuccess);
    blocks_.push_back(block);
    cudaMemcpyAsync(block, host, bytes, cudaMemcpyHostToDevice, stream_);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return block;
  }
  static std::vector<float> numbers(int count, int seed) {
    std::vector<float> values;
    for (int i = 0; i < count; ++i) values.push_back(static_cast<float>((i * 7 + seed) % 5 - 2));
    return values;
  }

  // Runs all products in one call and compares each with integers.
  void run(const std::vector<Product>& products, bool transpose_a, bool transpose_b, bool half, float beta) {
    const auto to_device = [&](const std::vector<float>& values) {
      std::vector<bf16> halves;
      for (const float value : values) halves.emplace_back(value);
      return half ? device_copy(halves.data(), halves.size() * 2) : device_copy(values.data(), values.size() * 4);
    };
    std::vector<void*> a, b, c;
    std::vector<int> m, n, k, a_ld, b_ld, c_ld;
    for (const Product& p : products) {
      m.push_back(p.m), n.push_back(p.n), k.push_back(p.k);
      a_ld.push_back((transpose_a ? p.k : p.m) + p.padding);
      b_ld.push_back((transpose_b ? p.n : p.k) + p.padding);
      c_ld.push_back(p.m + p.padding);
      a.push_back(to_device(numbers(a_ld.back() * (transpose_a ? p.m : p.k), 1)));
      b.push_back(to_device(numbers(b_ld.back() * (transpose_b ? p.k : p.n), 2)));
      c.push_back(to_device(numbers(c_ld.back() * p.n, 3)));
    }
    const auto count = static_cast<int>(products.size());
    const std::vector<cublasOperation_t> op_a(products.size(), transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    const std::vector<cublasOperation_t> op_b(products.size(), transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    const std::vector<float> one(products.size(), 1.0F), betas(products.size(), beta);
    const std::vector<int> sizes(products.size(), 1);
    const cudaDataType_t type = half ? CUDA_R_16BF : CUDA_R_32F;
    const auto addresses = [&](const std::vector<void*>& list) {
      return static_cast<void**>(device_copy(list.data(), list.size() * sizeof(void*)));
    };
    ASSERT_EQ(cublasGemmGroupedBatchedEx(handle_, op_a.data(), op_b.data(), m.data(), n.data(), k.data(), one.data(),
                                         addresses(a), type, a_ld.data(), addresses(b), type, b_ld.data(), betas.data(),
                                         addresses(c), type, c_ld.data(), count, sizes.data(), CUBLAS_COMPUTE_32F),
              CUBLAS_STATUS_SUCCESS);
    for (size_t g = 0; g < products.size(); ++g) {
      const Product& p = products[g];
      const std::vector<float> x = numbers(a_ld[g] * (transpose_a ? p.m : p.k), 1);
      const std::vector<float> y = numbers(b_ld[g] * (transpose_b ? p.k : p.n), 2);
      std::vector<float> want = numbers(c_ld[g] * p.n, 3);
      for (int j = 0; j < p.n; ++j) {
        for (int i = 0; i < p.m; ++i) {
          float& sum = want[static_cast<size_t>(i + j * c_ld[g])];
          sum *= beta;
          for (int t = 0; t < p.k; ++t) {
            sum += x[static_cast<size_t>(transpose_a ? t + i * a_ld[g] : i + t * a_ld[g])] *
                   y[static_cast<size_t>(transpose_b ? j + t * b_ld[g] : t + j * b_ld[g])];
          }
        }
      }
      std::vector<float> got(want.size());
      std::vector<bf16> halves(want.size());
      cudaMemcpyAsync(half ? static_cast<void*>(halves.data()) : got.data(), c[g], want.size() * (half ? 2 : 4),
                      cudaMemcpyDeviceToHost, stream_);
      ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
      for (size_t i = 0; half && i < got.size(); ++i) got[i] = static_cast<float>(halves[i]);
      EXPECT_EQ(got, want) << "product " << g;
    }
  }

  cudaStream_t stream_ = nullptr;
  cublasHandle_t handle_ = nullptr;
  std::vector<void*> blocks_;
};

TEST_F(Cublas, GroupedProductsMatchSumsOfIntegers) {
  for (const bool half : {false, true}) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        for (const float beta : {0.0F, 1.0F}) {
          run({{8, 3, 16}, {8, 1, 16, 8}, {16, 24, 8}, {72, 5, 8}}, transpose_a, transpose_b, half, beta);
        }
      }
    }
  }
}

TEST_F(Cublas, RefusesWhatTheLibraryRefuses) {
  const cublasOperation_t op = CUBLAS_OP_N;
  const float one = 1;
  const int size = 8, less = 7, count = 1;
  float zeros[64] = {};
  void* matrix = device_copy(zeros, sizeof zeros);
  auto** list = static_cast<void**>(device_copy(&matrix, sizeof matrix));
  const auto call = [&](cudaDataType_t in, cudaDataType_t out, const int* ld, cublasComputeType_t compute) {
    return cublasGemmGroupedBatchedEx(handle_, &op, &op, &size, &size, &size, &one, list, in, ld, list, in, &size, &one,
                                      list, out, &size, 1, &count, compute);
  };
  EXPECT_EQ(call(CUDA_R_32F, CUDA_R_32F, &size, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(call(CUDA_R_16BF, CUDA_R_32F, &size, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(call(CUDA_R_32F, CUDA_R_32F, &less, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(call(CUDA_R_32F, CUDA_R_32F, &size, CUBLAS_COMPUTE_32I), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
}

TEST_F(Cublas, AnAddressOutsideOfDeviceMemoryFailsTheCall) {
  std::string report;
  emulator::set_failure_handler([&](const std::string& text) { report = text; });
  float host[64] = {};
  void* matrix = host;
  auto** list = static_cast<void**>(device_copy(&matrix, sizeof matrix));
  const cublasOperation_t op = CUBLAS_OP_N;
  const float one = 1;
  const int size = 8, count = 1;
  EXPECT_EQ(cublasGemmGroupedBatchedEx(handle_, &op, &op, &size, &size, &size, &one, list, CUDA_R_32F, &size, list,
                                       CUDA_R_32F, &size, &one, list, CUDA_R_32F, &size, 1, &count, CUBLAS_COMPUTE_32F),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorLaunchFailure);
  EXPECT_NE(report.find("cublasGemmGroupedBatchedEx: product 0"), std::string::npos) << report;
  emulator::clear_errors();
  emulator::set_failure_handler({});
}

}  // namespace
}  // namespace trireme
