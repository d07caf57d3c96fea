// The emulated cuBLASLt against sums in fp64, and what it must refuse.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "core/tensor/dtype.h"
#include "tests/emulator/emulator.h"

namespace trireme {
namespace {

// A matrix on the device with its values in fp64.
struct Matrix {
  Matrix(cudaDataType of, int64_t num_rows, int64_t num_cols, int64_t leading, int order_of, int seed)
      : type(of),
        rows(num_rows),
        cols(num_cols),
        ld(leading),
        order(order_of),
        values(static_cast<size_t>(rows * cols)) {
    for (size_t i = 0; i < values.size(); ++i) {
      const auto x = static_cast<uint32_t>(i + 1) * 2654435761U + static_cast<uint32_t>(seed) * 40503U;
      values[i] = static_cast<double>(static_cast<int>(x >> 24) - 128) / 64;  // exact in bf16
    }
    cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order);
    const int64_t span = ld * (order == CUBLASLT_ORDER_COL ? cols : rows);
    bytes = static_cast<size_t>(span * (type == CUDA_R_16BF ? 2 : 4));
    cudaMalloc(&data, bytes);
    upload();
  }
  ~Matrix() {
    cublasLtMatrixLayoutDestroy(layout);
    cudaFree(data);
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i + j * rows)]; }
  size_t place(int64_t i, int64_t j) const {
    return static_cast<size_t>(order == CUBLASLT_ORDER_COL ? i + j * ld : i * ld + j);
  }

  void upload() {
    std::vector<std::byte> host(bytes);
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t i = 0; i < rows; ++i) {
        const auto value = static_cast<float>(at(i, j));
        if (type == CUDA_R_16BF) {
          reinterpret_cast<bf16*>(host.data())[place(i, j)] = bf16(value);
        } else {
          reinterpret_cast<float*>(host.data())[place(i, j)] = value;
        }
      }
    }
    run([&](cudaStream_t s) { cudaMemcpyAsync(data, host.data(), bytes, cudaMemcpyHostToDevice, s); });
  }
  void download() {
    std::vector<std::byte> host(bytes);
    run([&](cudaStream_t s) { cudaMemcpyAsync(host.data(), data, bytes, cudaMemcpyDeviceToHost, s); });
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t i = 0; i < rows; ++i) {
        at(i, j) = type == CUDA_R_16BF ? static_cast<float>(reinterpret_cast<const bf16*>(host.data())[place(i, j)])
                                       : reinterpret_cast<const float*>(host.data())[place(i, j)];
      }
    }
  }
  static void run(const std::function<void(cudaStream_t)>& body) {
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0);
    body(stream);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    cudaStreamDestroy(stream);
  }

  cudaDataType type;
  int64_t rows, cols, ld;
  int order;
  std::vector<double> values;
  size_t bytes = 0;
  void* data = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
};

class CublasLt : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::set_num_devices(1);
    cublasLtCreate(&handle_);
    cublasLtMatmulPreferenceCreate(&preference_);
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{1 << 16});
    new_desc();
  }
  void TearDown() override {
    cublasLtMatmulDescDestroy(desc_);
    cublasLtMatmulPreferenceDestroy(preference_);
    cublasLtDestroy(handle_);
    emulator::set_num_devices(0);
  }
  void new_desc() {
    if (desc_ != nullptr) cublasLtMatmulDescDestroy(desc_);
    cublasLtMatmulDescCreate(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  }
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value),
              CUBLAS_STATUS_SUCCESS);
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    ASSERT_EQ(cublasLtMatmulDescSetAttribute(desc_, attribute, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  std::vector<cublasLtMatmulHeuristicResult_t> ask(const Matrix& a, const Matrix& b, const Matrix& d) {
    std::vector<cublasLtMatmulHeuristicResult_t> results(8);
    int count = 0;
    status_ = cublasLtMatmulAlgoGetHeuristic(handle_, desc_, a.layout, b.layout, d.layout, d.layout, preference_, 8,
                                             results.data(), &count);
    results.resize(static_cast<size_t>(count));
    return results;
  }
  cublasStatus_t multiply(const Matrix& a, const Matrix& b, const Matrix& d, float alpha, float beta,
                          const cublasLtMatmulAlgo_t* algo) {
    void* workspace = nullptr;
    cudaMalloc(&workspace, 1 << 16);
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    Matrix::run([&](cudaStream_t stream) {
      status = cublasLtMatmul(handle_, desc_, &alpha, a.data, a.layout, b.data, b.layout, &beta, d.data, d.layout,
                              d.data, d.layout, algo, workspace, 1 << 16, stream);
    });
    cudaFree(workspace);
    return status;
  }

  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
};

double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double dgelu(double x) { return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5; }

struct Case {
  cudaDataType in, out;
  bool transpose_a, transpose_b;
  uint32_t epilogue;
  int order;
};

class CublasLtProduct : public CublasLt, public ::testing::WithParamInterface<Case> {};

constexpr int64_t kM = 70, kN = 9, kK = 33;

TEST_P(CublasLtProduct, IsTheFormula) {
  const Case& c = GetParam();
  const auto ld = [&](int64_t rows, int64_t cols) { return (c.order == CUBLASLT_ORDER_COL ? rows : cols) + 2; };
  const int64_t a_rows = c.transpose_a ? kK : kM;
  const int64_t a_cols = c.transpose_a ? kM : kK;
  const int64_t b_rows = c.transpose_b ? kN : kK;
  const int64_t b_cols = c.transpose_b ? kK : kN;
  Matrix a(c.in, a_rows, a_cols, ld(a_rows, a_cols), c.order, 1);
  Matrix b(c.in, b_rows, b_cols, ld(b_rows, b_cols), c.order, 2);
  Matrix d(c.out, kM, kN, ld(kM, kN), c.order, 3);
  Matrix aux(c.out, kM, kN, 72, CUBLASLT_ORDER_COL, 4);
  Matrix bias(c.out, c.epilogue == CUBLASLT_EPILOGUE_BGRADB ? kN : kM, 1, 100, CUBLASLT_ORDER_COL, 5);
  set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{c.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N});
  set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t{c.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N});
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, c.epilogue);
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.data);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, aux.ld);

  const double alpha = 0.5;
  const double beta = 0.25;
  std::vector<double> want(kM * kN), want_aux = aux.values, want_bias = bias.values;
  if ((c.epilogue & ~uint32_t{CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_GELU_AUX}) > 1) {
    if ((c.epilogue & 128) == 0 || c.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) want_bias.assign(want_bias.size(), 0);
  }
  const auto op_a = [&](int64_t i, int64_t k) { return c.transpose_a ? a.at(k, i) : a.at(i, k); };
  const auto op_b = [&](int64_t k, int64_t j) { return c.transpose_b ? b.at(j, k) : b.at(k, j); };
  for (int64_t j = 0; j < kN; ++j) {
    for (int64_t i = 0; i < kM; ++i) {
      double x = 0;
      for (int64_t k = 0; k < kK; ++k) x += op_a(i, k) * op_b(k, j);
      x = alpha * x + beta * d.at(i, j);
      const auto place = static_cast<size_t>(i + j * kM);
      if (c.epilogue & CUBLASLT_EPILOGUE_BIAS) x += bias.at(i, 0);
      if (c.epilogue & CUBLASLT_EPILOGUE_GELU) {
        if (c.epilogue & 128) want_aux[place] = x;
        x = gelu(x);
      }
      if (c.epilogue & 64) x *= dgelu(aux.at(i, j));
      if (c.epilogue & 16) want_bias[static_cast<size_t>(i)] += x;
      want[place] = x;
    }
  }
  for (int64_t k = 0; k < kK; ++k) {
    for (int64_t i = 0; i < kM && c.epilogue == CUBLASLT_EPILOGUE_BGRADA; ++i)
      want_bias[static_cast<size_t>(i)] += op_a(i, k);
    for (int64_t j = 0; j < kN && c.epilogue == CUBLASLT_EPILOGUE_BGRADB; ++j)
      want_bias[static_cast<size_t>(j)] += op_b(k, j);
  }

  const auto results = ask(a, b, d);
  ASSERT_EQ(status_, CUBLAS_STATUS_SUCCESS);
  ASSERT_FALSE(results.empty());
  ASSERT_EQ(multiply(a, b, d, static_cast<float>(alpha), static_cast<float>(beta), &results.back().algo),
            CUBLAS_STATUS_SUCCESS);
  const double tolerance = c.out == CUDA_R_16BF ? 0x1p-8 : 1e-5;
  for (Matrix* m : {&d, &aux, &bias}) {
    m->download();
    const std::vector<double>& expected = m == &d ? want : m == &aux ? want_aux : want_bias;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(m->values[i], expected[i], tolerance * (1 + std::abs(expected[i]))) << (m == &d     ? "D "
                                                                                          : m == &aux ? "aux "
                                                                                                      : "bias ")
                                                                                      << i;
    }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  constexpr cudaDataType kTypes[][2] = {
      {CUDA_R_32F, CUDA_R_32F}, {CUDA_R_16BF, CUDA_R_16BF}, {CUDA_R_16BF, CUDA_R_32F}};
  for (const auto& [in, out] : kTypes) {
    for (const int transposes : {0, 1, 2, 3}) {
      for (const int order : {CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW}) {
        all.push_back({in, out, (transposes & 1) != 0, (transposes & 2) != 0, CUBLASLT_EPILOGUE_DEFAULT, order});
      }
    }
    for (const cublasLtEpilogue_t epilogue :
         {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_BIAS,
          CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD,
          CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB}) {
      all.push_back({in, out, true, false, epilogue, CUBLASLT_ORDER_COL});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Products, CublasLtProduct, ::testing::ValuesIn(cases()));

TEST_F(CublasLt, OffersAlgorithmsThatAgree) {
  const Matrix a(CUDA_R_16BF, 64, 48, 64, CUBLASLT_ORDER_COL, 1);
  const Matrix b(CUDA_R_16BF, 48, 40, 48, CUBLASLT_ORDER_COL, 2);
  Matrix d(CUDA_R_32F, 64, 40, 64, CUBLASLT_ORDER_COL, 3);
  const auto results = ask(a, b, d);
  ASSERT_EQ(results.size(), 3U);
  std::vector<double> first;
  for (const auto& result : results) {
    ASSERT_EQ(multiply(a, b, d, 1, 0, &result.algo), CUBLAS_STATUS_SUCCESS);
    d.download();
    if (first.empty()) first = d.values;
    EXPECT_EQ(d.values, first);
  }
  EXPECT_NE(results[0].algo.data[1], results[1].algo.data[1]);
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{0});
  EXPECT_EQ(ask(a, b, d).size(), 2U) << "without a workspace";
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{2});
  EXPECT_EQ(ask(a, b, d).size(), 1U) << "without alignment";
}

TEST_F(CublasLt, RefusesWhatContradictsItself) {
  const Matrix a(CUDA_R_32F, 64, 48, 64, CUBLASLT_ORDER_COL, 1);
  const Matrix b(CUDA_R_32F, 48, 40, 48, CUBLASLT_ORDER_COL, 2);
  const Matrix d(CUDA_R_32F, 64, 40, 64, CUBLASLT_ORDER_COL, 3);
  ask(a, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_SUCCESS);
  const int64_t short_ld = 63;
  cublasLtMatrixLayoutSetAttribute(a.layout, CUBLASLT_MATRIX_LAYOUT_LD, &short_ld, sizeof short_ld);
  ask(a, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_INVALID_VALUE) << "leading dimension";
  EXPECT_EQ(multiply(a, b, d, 1, 0, nullptr), CUBLAS_STATUS_INVALID_VALUE);
  const int64_t ld = 64;
  cublasLtMatrixLayoutSetAttribute(a.layout, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld);
  EXPECT_EQ(multiply(a, b, d, 1, 0, nullptr), CUBLAS_STATUS_SUCCESS);
  set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{CUBLAS_OP_T});
  ask(a, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_INVALID_VALUE) << "shapes";
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &ld, sizeof ld),
            CUBLAS_STATUS_INVALID_VALUE)
      << "size of an attribute";
}

TEST_F(CublasLt, RefusesWhatTheLibraryHasNoKernelFor) {
  const Matrix a(CUDA_R_16BF, 64, 48, 64, CUBLASLT_ORDER_COL, 1);
  const Matrix wide(CUDA_R_32F, 64, 48, 64, CUBLASLT_ORDER_COL, 1);
  const Matrix b(CUDA_R_16BF, 48, 40, 48, CUBLASLT_ORDER_COL, 2);
  const Matrix wide_b(CUDA_R_32F, 48, 40, 48, CUBLASLT_ORDER_COL, 2);
  const Matrix d(CUDA_R_16BF, 64, 40, 64, CUBLASLT_ORDER_COL, 3);
  ask(wide, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_NOT_SUPPORTED) << "A and B of two types";
  ask(wide, wide_b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_NOT_SUPPORTED) << "f32 to bf16";
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_BIAS});
  set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t{CUDA_R_32F});
  ask(a, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_NOT_SUPPORTED) << "bias of another type than D";
  new_desc();
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_GELU_AUX});
  set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{60});
  ask(a, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_INVALID_VALUE) << "aux of too few rows";
  new_desc();
  set(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, int32_t{CUBLAS_COMPUTE_32F_FAST_TF32});
  ask(a, b, d);
  EXPECT_EQ(status_, CUBLAS_STATUS_NOT_SUPPORTED) << "TF32 of bf16";
}

TEST_F(CublasLt, HoldsTheCallerToWhatItPromised) {
  const Matrix a(CUDA_R_32F, 64, 48, 64, CUBLASLT_ORDER_COL, 1);
  const Matrix b(CUDA_R_32F, 48, 40, 48, CUBLASLT_ORDER_COL, 2);
  const Matrix d(CUDA_R_32F, 64, 40, 64, CUBLASLT_ORDER_COL, 3);
  const auto results = ask(a, b, d);
  ASSERT_EQ(results.size(), 3U);
  const float one = 1;
  const float zero = 0;
  const auto call = [&](const cublasLtMatmulAlgo_t& algo, const void* from, size_t workspace_bytes) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    Matrix::run([&](cudaStream_t stream) {
      status = cublasLtMatmul(handle_, desc_, &one, from, a.layout, b.data, b.layout, &zero, d.data, d.layout, d.data,
                              d.layout, &algo, nullptr, workspace_bytes, stream);
    });
    return status;
  };
  EXPECT_EQ(call(results[0].algo, a.data, 0), CUBLAS_STATUS_INVALID_VALUE) << "workspace";
  EXPECT_EQ(call(results[1].algo, a.data, 0), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(call(results[1].algo, static_cast<const float*>(a.data) + 1, 0), CUBLAS_STATUS_INVALID_VALUE)
      << "alignment";
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_GELU});
  EXPECT_EQ(call(results[1].algo, a.data, 0), CUBLAS_STATUS_NOT_SUPPORTED) << "an algorithm for another epilogue";
}

}  // namespace
}  // namespace trireme
