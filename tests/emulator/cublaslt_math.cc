// The arithmetic behind the emulated cublasLtMatmul: operands are widened to fp32 and packed, products are added up in
// the order of k, the epilogue works on fp32 values before they are rounded to D's type.
#include <cmath>
#include <vector>

#include "core/tensor/dtype.h"
#include "tests/emulator/cublaslt_problem.h"

namespace emulator {

namespace {

using trireme::bf16;

constexpr int64_t kTileRows = 64;
constexpr int64_t kTileCols = 4;

float load(const void* data, int32_t type, int64_t i) {
  return type == CUDA_R_16BF ? static_cast<float>(static_cast<const bf16*>(data)[i])
                             : static_cast<const float*>(data)[i];
}

void store(void* data, int32_t type, int64_t i, float value) {
  if (type == CUDA_R_16BF) {
    static_cast<bf16*>(data)[i] = bf16(value);
  } else {
    static_cast<float*>(data)[i] = value;
  }
}

// The operand as a dense column-major fp32 matrix of `rows` rows, transposed if asked. Every element is read once, by
// code that the sanitizers see.
std::vector<float> pack(const void* data, const MatrixLayout& layout, bool transpose, int64_t rows, int64_t cols) {
  std::vector<float> out(static_cast<size_t>(rows * cols));
  for (int64_t j = 0; j < cols; ++j) {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t from = transpose ? layout.at(j, i) : layout.at(i, j);
      out[static_cast<size_t>(i + j * rows)] = load(data, layout.type, from);
    }
  }
  return out;
}

struct Tile {
  float value[kTileCols][kTileRows];
};

// Σ_k a[i + k·m] · b[k + j·k_size] for kTileRows × kTileCols elements (fewer at the edges). Private memory only, so the
// sanitizers needn't look.
__attribute__((no_sanitize("address", "thread", "undefined"))) void multiply_tile(const float* a, const float* b,
                                                                                  int64_t m, int64_t k_size,
                                                                                  int64_t rows, int64_t cols,
                                                                                  Tile& tile) {
  for (int64_t j = 0; j < kTileCols; ++j) {
    for (int64_t i = 0; i < kTileRows; ++i) tile.value[j][i] = 0;
  }
  for (int64_t k = 0; k < k_size; ++k) {
    const float* column = a + k * m;
    for (int64_t j = 0; j < cols; ++j) {
      const float factor = b[k + j * k_size];
      float* out = tile.value[j];
      if (rows == kTileRows) {
#pragma omp simd
        for (int64_t i = 0; i < kTileRows; ++i) out[i] += column[i] * factor;
      } else {
        for (int64_t i = 0; i < rows; ++i) out[i] += column[i] * factor;
      }
    }
  }
}

// The approximation by tanh, as the library's epilogue.
constexpr float kRoot2OverPi = 0.7978845608028654F;
constexpr float kCubic = 0.044715F;

float gelu(float x) { return 0.5F * x * (1.0F + std::tanh(kRoot2OverPi * (x + kCubic * x * x * x))); }

float gelu_derivative(float x) {
  const float t = std::tanh(kRoot2OverPi * (x + kCubic * x * x * x));
  return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * kRoot2OverPi * (1.0F + 3.0F * kCubic * x * x);
}

class Epilogue {
 public:
  Epilogue(const Matmul& x, const MatmulPointers& pointers)
      : x_(x), pointers_(pointers), column_sums_(static_cast<size_t>(x.desc.writes_bias() ? x.m : 0)) {}

  void finish(int64_t i, int64_t j, float product) {
    const MatmulDesc& desc = x_.desc;
    float value = pointers_.alpha * product;
    if (pointers_.beta != 0) value += pointers_.beta * load(pointers_.c, x_.c.type, x_.c.at(i, j));
    if (desc.reads_bias()) value += load(desc.bias, x_.d.type, i);
    const int64_t aux = i + j * desc.aux_ld;
    switch (desc.epilogue) {
      case CUBLASLT_EPILOGUE_GELU_AUX:
      case CUBLASLT_EPILOGUE_GELU_AUX_BIAS: store(desc.aux, x_.d.type, aux, value); [[fallthrough]];
      case CUBLASLT_EPILOGUE_GELU:
      case CUBLASLT_EPILOGUE_GELU_BIAS: value = gelu(value); break;
      case CUBLASLT_EPILOGUE_DGELU:
      case CUBLASLT_EPILOGUE_DGELU_BGRAD: value *= gelu_derivative(load(desc.aux, x_.d.type, aux)); break;
      default: break;
    }
    if (desc.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) column_sums_[static_cast<size_t>(i)] += value;
    store(pointers_.d, x_.d.type, x_.d.at(i, j), value);
  }

  void write_bias_gradient(const std::vector<float>& a, const std::vector<float>& b) {
    const uint32_t epilogue = x_.desc.epilogue;
    if (epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
      for (int64_t i = 0; i < x_.m; ++i) store(x_.desc.bias, x_.d.type, i, column_sums_[static_cast<size_t>(i)]);
    }
    const bool from_a = epilogue == CUBLASLT_EPILOGUE_BGRADA;
    if (!from_a && epilogue != CUBLASLT_EPILOGUE_BGRADB) return;
    for (int64_t i = 0; i < (from_a ? x_.m : x_.n); ++i) {
      float sum = 0;
      for (int64_t k = 0; k < x_.k; ++k)
        sum += from_a ? a[static_cast<size_t>(i + k * x_.m)] : b[static_cast<size_t>(k + i * x_.k)];
      store(x_.desc.bias, x_.d.type, i, sum);
    }
  }

 private:
  const Matmul& x_;
  const MatmulPointers& pointers_;
  std::vector<float> column_sums_;
};

}  // namespace

void run_matmul(const Matmul& x, const MatmulPointers& pointers) {
  const std::vector<float> a = pack(pointers.a, x.a, x.desc.transpose_a != CUBLAS_OP_N, x.m, x.k);
  const std::vector<float> b = pack(pointers.b, x.b, x.desc.transpose_b != CUBLAS_OP_N, x.k, x.n);
  Epilogue epilogue(x, pointers);
  Tile tile;
  for (int64_t j0 = 0; j0 < x.n; j0 += kTileCols) {
    const int64_t cols = std::min(kTileCols, x.n - j0);
    for (int64_t i0 = 0; i0 < x.m; i0 += kTileRows) {
      const int64_t rows = std::min(kTileRows, x.m - i0);
      multiply_tile(a.data() + i0, b.data() + j0 * x.k, x.m, x.k, rows, cols, tile);
      for (int64_t j = 0; j < cols; ++j) {
        for (int64_t i = 0; i < rows; ++i) epilogue.finish(i0 + i, j0 + j, tile.value[j][i]);
      }
    }
  }
  epilogue.write_bias_gradient(a, b);
}

}  // namespace emulator
