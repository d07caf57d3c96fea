// Matrix products in memory that tests of the CPU's products try, and what plain loops in fp64 say of them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/ops/cpu/gemm.h"
#include "core/random/philox.h"

namespace trireme::cpu {

// A matrix in memory with room after each row that must stay as it is, and must not be read.
struct Matrix {
  int64_t rows, cols, ld;
  DType dtype;
  std::vector<float> f32;
  std::vector<bf16> half;

  Matrix(int64_t rows_, int64_t cols_, int64_t pad, DType dtype_)
      : rows(rows_), cols(cols_), ld(cols_ + pad), dtype(dtype_) {
    const auto count = static_cast<size_t>(rows * ld);
    if (dtype == DType::f32) f32.assign(count, kUntouched);
    if (dtype == DType::bf16) half.assign(count, bf16(kUntouched));
  }

  static constexpr float kUntouched = 1024.0f;

  void set(int64_t i, int64_t j, float value) {
    const auto at = static_cast<size_t>(i * ld + j);
    if (dtype == DType::f32) f32[at] = value;
    if (dtype == DType::bf16) half[at] = bf16(value);
  }
  float at(int64_t i, int64_t j) const {
    const auto index = static_cast<size_t>(i * ld + j);
    return dtype == DType::f32 ? f32[index] : static_cast<float>(half[index]);
  }
  void fill_random(uint64_t key) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const PhiloxBlock block = philox4x32(key, 0, static_cast<uint64_t>(i * cols + j));
        set(i, j, static_cast<float>(block.x[0] >> 8) * 0x1p-23f - 1.0f);
      }
    }
  }
  // From −2 to 2: fp32 holds every sum of their products exactly, so that its order doesn't matter.
  void fill_integers(uint64_t key) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        set(i, j, static_cast<float>(philox4x32(key, static_cast<uint64_t>(i * cols + j)).x[0] % 5) - 2);
      }
    }
  }
  void fill(float value) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) set(i, j, value);
    }
  }
  void fill_gaps(float value) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = cols; j < ld; ++j) set(i, j, value);
    }
  }
  void* data() { return dtype == DType::f32 ? static_cast<void*>(f32.data()) : static_cast<void*>(half.data()); }
  bool same_bytes(const Matrix& other) const {
    return f32.size() == other.f32.size() && half.size() == other.half.size() &&
           (f32.empty() || std::memcmp(f32.data(), other.f32.data(), f32.size() * sizeof(float)) == 0) &&
           (half.empty() || std::memcmp(half.data(), other.half.data(), half.size() * sizeof(bf16)) == 0);
  }
};

struct Case {
  int64_t m, n, k;
  Transpose ta = Transpose::no;
  Transpose tb = Transpose::no;
  DType in = DType::f32;
  DType out = DType::f32;
  float alpha = 1.0f;
  float beta = 0.0f;
  int64_t pad = 0;

  std::string str() const {
    return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
           (ta == Transpose::yes ? " T" : " N") + (tb == Transpose::yes ? "T " : "N ") + dtype_name(in) + "->" +
           dtype_name(out) + " alpha " + std::to_string(alpha) + " beta " + std::to_string(beta) + " pad " +
           std::to_string(pad);
  }
};

enum class Numbers { random, integers };

// The matrices of a case and the call on them.
struct Problem {
  Case what;
  Numbers numbers;
  Matrix a, b, c;

  explicit Problem(const Case& what_, Numbers numbers_ = Numbers::random)
      : what(what_),
        numbers(numbers_),
        a(what.ta == Transpose::no ? what.m : what.k, what.ta == Transpose::no ? what.k : what.m, what.pad, what.in),
        b(what.tb == Transpose::no ? what.k : what.n, what.tb == Transpose::no ? what.n : what.k, what.pad, what.in),
        c(what.m, what.n, what.pad, what.out) {
    fill(a, 1);
    fill(b, 2);
    a.fill_gaps(std::numeric_limits<float>::quiet_NaN());
    b.fill_gaps(std::numeric_limits<float>::quiet_NaN());
    if (what.beta == 0.0f) {
      c.fill(std::numeric_limits<float>::quiet_NaN());  // must not be read
    } else {
      fill(c, 3);
    }
  }

  void fill(Matrix& matrix, uint64_t key) const {
    if (numbers == Numbers::random) matrix.fill_random(key);
    if (numbers == Numbers::integers) matrix.fill_integers(key);
  }

  GemmArgs args() {
    return {.m = what.m,
            .n = what.n,
            .k = what.k,
            .a = {.data = a.data(), .dtype = what.in, .ld = a.ld, .transpose = what.ta},
            .b = {.data = b.data(), .dtype = what.in, .ld = b.ld, .transpose = what.tb},
            .c = {.data = c.data(), .dtype = what.out, .ld = c.ld},
            .alpha = what.alpha,
            .beta = what.beta};
  }

  // Op(A)·op(B) and the same of magnitudes, by the plain triple loop in fp64.
  struct Sums {
    std::vector<double> product, magnitude;  // [m, n]
  };
  Sums sums() const {
    const auto count = static_cast<size_t>(what.m * what.n);
    Sums result{std::vector<double>(count), std::vector<double>(count)};
    for (int64_t p = 0; p < what.k; ++p) {
      std::vector<double> row(static_cast<size_t>(what.n));
      for (int64_t j = 0; j < what.n; ++j)
        row[static_cast<size_t>(j)] = what.tb == Transpose::no ? b.at(p, j) : b.at(j, p);
      for (int64_t i = 0; i < what.m; ++i) {
        const double x = what.ta == Transpose::no ? a.at(i, p) : a.at(p, i);
        double* product = result.product.data() + i * what.n;
        double* magnitude = result.magnitude.data() + i * what.n;
        for (size_t j = 0; j < row.size(); ++j) {
          product[j] += x * row[j];
          magnitude[j] += std::abs(x * row[j]);
        }
      }
    }
    return result;
  }

  // Compares C with alpha times the sums, plus beta times `before`, the values of C before the call. An fp32 sum of
  // k products in any order is off by at most k·2^-24 of the sum of magnitudes; a bf16 result by 2^-9 of itself more. Of
  // integers the result is the one nearest number.
  void expect_right(const Sums& sums, const Matrix& before) const {
    for (int64_t i = 0; i < what.m; ++i) {
      for (int64_t j = 0; j < what.n; ++j) {
        const auto at = static_cast<size_t>(i * what.n + j);
        double want = what.alpha * sums.product[at];
        if (what.beta != 0.0f) want += before.at(i, j);
        const bool exact = numbers == Numbers::integers;
        if (exact && what.out == DType::bf16) want = static_cast<float>(bf16(static_cast<float>(want)));
        const double magnitude = std::abs(what.alpha) * sums.magnitude[at] + std::abs(want);
        const double tolerance = exact ? 0.0
                                       : static_cast<double>(what.k + 2) * 0x1p-24 * magnitude +
                                             (what.out == DType::bf16 ? 0x1p-8 * std::abs(want) : 0.0);
        const double error = std::abs(c.at(i, j) - want);
        if (!(error <= tolerance))
          FAIL() << what.str() << " at " << i << ", " << j << ": " << c.at(i, j) << ", not " << want;
      }
      for (int64_t j = what.n; j < c.ld; ++j) {
        if (c.at(i, j) != Matrix::kUntouched) FAIL() << what.str() << " wrote beside C in row " << i;
      }
    }
  }
  void expect_right(const Matrix& before) const { expect_right(sums(), before); }
};

}  // namespace trireme::cpu
