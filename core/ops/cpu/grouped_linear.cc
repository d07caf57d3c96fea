#include "core/ops/grouped_linear.h"

#include <vector>

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/kernels.h"

namespace trireme::cpu {

namespace {

// Rows from `row` on, as an operand.
MatrixRef plain(const Tensor& t, int64_t row) {
  const auto* data = static_cast<const char*>(t.raw()) + row * t.dim(1) * dtype_bytes(t.dtype());
  return {data, t.dtype(), t.dim(1), Transpose::no};
}

MatrixRef transposed(const Tensor& t, int64_t row) {
  MatrixRef ref = plain(t, row);
  ref.transpose = Transpose::yes;
  return ref;
}

MatrixOut out(Tensor& t, int64_t row) {
  return {static_cast<char*>(t.raw()) + row * t.dim(1) * dtype_bytes(t.dtype()), t.dtype(), t.dim(1)};
}

// Calls product(g, begin, rows) for each group, whose rows are [begin, begin + rows), and computes what it returns.
template <class Product>
void multiply_groups(Stream& stream, ops::RowOffsets offsets, const Product& product) {
  std::vector<GemmArgs> products;
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    products.push_back(product(static_cast<int64_t>(g), offsets[g], offsets[g + 1] - offsets[g]));
  }
  gemm_all(stream.pool(), products);
}

}  // namespace

void grouped_linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, ops::RowOffsets offsets, Tensor& y) {
  const int64_t columns = y.dim(1);
  multiply_groups(stream, offsets, [&](int64_t g, int64_t begin, int64_t rows) -> GemmArgs {
    return {.m = rows,
            .n = columns,
            .k = x.dim(1),
            .a = plain(x, begin),
            .b = transposed(weight, g * columns),
            .c = out(y, begin)};
  });
}

void grouped_linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, ops::RowOffsets offsets,
                                   Tensor& dx) {
  const int64_t columns = dy.dim(1);
  multiply_groups(stream, offsets, [&](int64_t g, int64_t begin, int64_t rows) -> GemmArgs {
    return {.m = rows,
            .n = dx.dim(1),
            .k = columns,
            .a = plain(dy, begin),
            .b = plain(weight, g * columns),
            .c = out(dx, begin)};
  });
}

void grouped_linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, ops::RowOffsets offsets,
                                    Tensor& dweight, bool accumulate) {
  const int64_t columns = dy.dim(1);
  multiply_groups(stream, offsets, [&](int64_t g, int64_t begin, int64_t rows) -> GemmArgs {
    return {.m = columns,
            .n = x.dim(1),
            .k = rows,
            .a = transposed(dy, begin),
            .b = plain(x, begin),
            .c = out(dweight, g * columns),
            .beta = accumulate ? 1.0f : 0.0f};
  });
}

}  // namespace trireme::cpu
