// One call of cuBLAS for all groups, or, where it has none for a case, one of cuBLASLt for each.
#include "core/ops/grouped_linear.h"

#include "core/ops/cuda/gemm.h"
#include "core/ops/cuda/grouped_gemm.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

namespace {

struct Group {
  int64_t index, begin, end;
  int64_t rows() const { return end - begin; }
};

std::vector<Group> groups_of(ops::RowOffsets offsets) {
  std::vector<Group> groups;
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    groups.push_back({static_cast<int64_t>(g), offsets[g], offsets[g + 1]});
  }
  return groups;
}

void* row_of(const Tensor& t, int64_t row) {
  return static_cast<char*>(t.raw()) + row * t.dim(1) * dtype_bytes(t.dtype());
}

// out rows = in rows · op(weight) for each group; weight [G·height, …].
void multiply_rows(Stream& stream, const Tensor& in, const Tensor& weight, bool weight_transposed, int64_t height,
                   ops::RowOffsets offsets, Tensor& out) {
  GroupedGemm call{.dtype = in.dtype(),
                   .b_transposed = weight_transposed,
                   .a_ld = in.dim(1),
                   .b_ld = weight.dim(1),
                   .c_ld = out.dim(1)};
  if (out.numel() == 0) return;
  if (in.dim(1) == 0) return fill(stream, out, 0);
  for (const Group& group : groups_of(offsets)) {
    if (group.rows() == 0) continue;
    call.products.push_back({.a = row_of(in, group.begin),
                             .b = row_of(weight, group.index * height),
                             .c = row_of(out, group.begin),
                             .m = group.rows(),
                             .n = out.dim(1),
                             .k = in.dim(1)});
  }
  if (try_grouped_gemm(stream, call)) return;
  for (const Group& group : groups_of(offsets)) {
    Tensor rows = out.slice(group.begin, group.end);
    const Tensor of_group = weight.slice(group.index * height, (group.index + 1) * height);
    gemm_untimed(stream, {in.slice(group.begin, group.end)}, {of_group, weight_transposed}, rows, /*accumulate=*/false);
  }
}

// One call for all groups with rows; the others' gradients become 0.
bool try_grouped_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, ops::RowOffsets offsets,
                                 Tensor& dweight, bool accumulate) {
  if (dweight.dtype() != x.dtype()) return false;
  const int64_t height = dy.dim(1);
  GroupedGemm call{.dtype = x.dtype(),
                   .a_transposed = true,
                   .a_ld = height,
                   .b_ld = x.dim(1),
                   .c_ld = x.dim(1),
                   .accumulate = accumulate};
  for (const Group& group : groups_of(offsets)) {
    if (group.rows() == 0) continue;
    call.products.push_back({.a = row_of(dy, group.begin),
                             .b = row_of(x, group.begin),
                             .c = row_of(dweight, group.index * height),
                             .m = height,
                             .n = x.dim(1),
                             .k = group.rows()});
  }
  if (!try_grouped_gemm(stream, call)) return false;
  for (const Group& group : groups_of(offsets)) {
    if (group.rows() > 0 || accumulate) continue;
    Tensor of_group = dweight.slice(group.index * height, (group.index + 1) * height);
    fill(stream, of_group, 0);
  }
  return true;
}

}  // namespace

void grouped_linear_forward(Stream& stream, const Tensor& x, const Tensor& weight, ops::RowOffsets offsets, Tensor& y) {
  multiply_rows(stream, x, weight, /*weight_transposed=*/true, y.dim(1), offsets, y);
}

void grouped_linear_backward_input(Stream& stream, const Tensor& dy, const Tensor& weight, ops::RowOffsets offsets,
                                   Tensor& dx) {
  multiply_rows(stream, dy, weight, /*weight_transposed=*/false, dy.dim(1), offsets, dx);
}

void grouped_linear_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, ops::RowOffsets offsets,
                                    Tensor& dweight, bool accumulate) {
  if (dweight.numel() == 0) return;
  if (dy.dtype() == DType::f32 && dweight.dtype() == DType::bf16) {
    // The libraries have no product of f32 matrices into bf16.
    Tensor sums = Tensor::empty(stream, dweight.shape(), DType::f32, MemoryTag::workspace);
    cuda::grouped_linear_backward_weight(stream, dy, x, offsets, sums, /*accumulate=*/false);
    return cuda::accumulate(stream, sums, dweight, accumulate);
  }
  if (try_grouped_backward_weight(stream, dy, x, offsets, dweight, accumulate)) return;
  const int64_t height = dy.dim(1);
  for (const Group& group : groups_of(offsets)) {
    Tensor of_group = dweight.slice(group.index * height, (group.index + 1) * height);
    gemm_untimed(stream, {dy.slice(group.begin, group.end), /*transposed=*/true}, {x.slice(group.begin, group.end)},
                 of_group, accumulate);
  }
}

}  // namespace trireme::cuda
