// What the products of tensor parallelism must give, on any backend and device: on numbers whose products and sums are
// exact in bf16, so that every row must be right to the bit, whatever the chunks and the matrix library.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "parallel/tensor_products.h"

namespace trireme {

struct ProductsCase {
  int64_t num_tokens;
  bool sequence;
  int64_t num_chunks;
  DType dtype;

  std::string str() const {
    return std::to_string(num_tokens) + " tokens, " + (sequence ? "sequence" : "whole") + ", " +
           std::to_string(num_chunks) + " chunks, " + dtype_name(dtype);
  }
};

// Row-major, in fp32 on the host.
struct HostMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values = std::vector<float>(static_cast<size_t>(rows * columns));

  float& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * columns + j)]; }
  float at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * columns + j)]; }
  bool operator==(const HostMatrix&) const = default;
};

// −1, 0 and 1, the same for the same name.
inline HostMatrix small_integers(int64_t rows, int64_t columns, const std::string& name) {
  HostMatrix m{.rows = rows, .columns = columns};
  const uint64_t key = random_key(3, name);
  for (size_t i = 0; i < m.values.size(); ++i) m.values[i] = static_cast<float>(uniform_below(key, i, 3)) - 1.0f;
  return m;
}

inline HostMatrix rows_of(const HostMatrix& m, int64_t begin, int64_t end) {
  HostMatrix out{.rows = end - begin, .columns = m.columns};
  std::copy_n(m.values.begin() + begin * m.columns, out.values.size(), out.values.begin());
  return out;
}

inline HostMatrix transposed(const HostMatrix& m) {
  HostMatrix out{.rows = m.columns, .columns = m.rows};
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < m.columns; ++j) out.at(j, i) = m.at(i, j);
  }
  return out;
}

// sum += a·b (+ bias in every row).
inline void add_product(const HostMatrix& a, const HostMatrix& b, const HostMatrix* bias, HostMatrix& sum) {
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.columns; ++j) {
      float value = bias != nullptr ? bias->at(0, j) : 0.0f;
      for (int64_t k = 0; k < a.columns; ++k) value += a.at(i, k) * b.at(k, j);
      sum.at(i, j) += value;
    }
  }
}

inline Tensor to_device(Stream& stream, const HostMatrix& m, DType dtype) {
  Tensor wide = Tensor::empty(stream, {m.rows, m.columns}, DType::f32);
  ops::copy_from_host(stream, m.values.data(), wide);
  if (dtype == DType::f32) return wide;
  Tensor narrow = Tensor::empty(stream, wide.shape(), dtype);
  ops::cast(stream, wide, narrow);
  return narrow;
}

inline HostMatrix to_host(Stream& stream, const Tensor& t) {
  Tensor wide = t;
  if (t.dtype() != DType::f32) {
    wide = Tensor::empty(stream, t.shape(), DType::f32);
    ops::cast(stream, t, wide);
  }
  HostMatrix m{.rows = t.dim(0), .columns = t.dim(1)};
  ops::copy_to_host(stream, wide, m.values.data());
  stream.synchronize();
  return m;
}

inline constexpr int64_t kProductHidden = 24;
inline constexpr int64_t kProductInner = 16;  // of one rank

// All four products on one rank of `comm`.
inline void check_products(Communicator& comm, Stream& stream, const ProductsCase& c) {
  const TensorGroup group(comm, c.sequence, c.num_chunks);
  const int64_t n = c.num_tokens;
  const int64_t first = group.first_row(n);
  const int64_t last = first + group.num_rows(n);
  const auto name = [](const char* what, int64_t rank) { return what + std::to_string(rank); };
  const HostMatrix hidden = small_integers(n, kProductHidden, "hidden");  // the same on all ranks
  const HostMatrix mine = rows_of(hidden, first, last);
  const HostMatrix bias = small_integers(1, kProductInner, name("bias", comm.rank()));
  const HostMatrix whole_bias = small_integers(1, kProductHidden, "whole bias");
  const auto column_weight = [&](int64_t r) {
    return small_integers(kProductInner, kProductHidden, name("column", r));
  };
  const auto row_weight = [&](int64_t r) { return small_integers(kProductHidden, kProductInner, name("row", r)); };
  const auto inner = [&](int64_t r) { return small_integers(n, kProductInner, name("inner", r)); };
  const Tensor column = to_device(stream, column_weight(comm.rank()), c.dtype);
  const Tensor row = to_device(stream, row_weight(comm.rank()), c.dtype);
  const Tensor inner_here = to_device(stream, inner(comm.rank()), c.dtype);
  const Tensor hidden_here = to_device(stream, mine, c.dtype);
  const std::string what = c.str() + ", rank " + std::to_string(comm.rank());

  HostMatrix want{.rows = n, .columns = kProductInner};
  add_product(hidden, transposed(column_weight(comm.rank())), &bias, want);
  const Tensor bias_here = to_device(stream, bias, c.dtype).view({kProductInner});
  EXPECT_EQ(to_host(stream, gather_linear(stream, group, hidden_here, n, column, bias_here)), want) << what;

  want = {.rows = n, .columns = kProductInner};
  add_product(hidden, row_weight(comm.rank()), nullptr, want);
  Tensor whole;
  EXPECT_EQ(to_host(stream, linear_reduce_backward(stream, group, hidden_here, n, row, whole)), want) << what;
  EXPECT_EQ(to_host(stream, whole), hidden) << what;

  HostMatrix sum{.rows = n, .columns = kProductHidden};
  for (int64_t r = 0; r < group.size(); ++r) {
    add_product(inner(r), transposed(row_weight(r)), r == 0 ? &whole_bias : nullptr, sum);
  }
  const Tensor summed_bias =
      group.is_first() ? to_device(stream, whole_bias, c.dtype).view({kProductHidden}) : Tensor{};
  const Tensor reduced = linear_reduce(stream, group, inner_here, row, summed_bias, /*residual=*/{});
  EXPECT_EQ(to_host(stream, reduced), rows_of(sum, first, last)) << what;
  HostMatrix added = rows_of(sum, first, last);
  for (size_t i = 0; i < added.values.size(); ++i) added.values[i] += mine.values[i];
  const Tensor with_residual = linear_reduce(stream, group, inner_here, row, summed_bias, hidden_here);
  EXPECT_EQ(to_host(stream, with_residual), added) << what;
  EXPECT_EQ(to_host(stream, hidden_here), mine) << what;

  sum = {.rows = n, .columns = kProductHidden};
  for (int64_t r = 0; r < group.size(); ++r) add_product(inner(r), column_weight(r), nullptr, sum);
  const Tensor gradient = gather_linear_backward(stream, group, inner_here, column);
  EXPECT_EQ(to_host(stream, gradient), rows_of(sum, first, last)) << what;
}

// Tokens that ranks and chunks divide, that they don't, fewer than ranks, none.
inline std::vector<ProductsCase> products_cases() {
  std::vector<ProductsCase> cases;
  for (const int64_t num_tokens : {0, 1, 3, 5, 16, 37}) {
    for (const bool sequence : {false, true}) {
      for (const int64_t num_chunks : {1, 2, 3, 8}) {
        for (const DType dtype : {DType::f32, DType::bf16}) cases.push_back({num_tokens, sequence, num_chunks, dtype});
      }
    }
  }
  return cases;
}

}  // namespace trireme
