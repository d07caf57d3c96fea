#include "core/ops/cuda/column_sum.h"

#include "core/ops/cuda/reduce.h"

namespace trireme::cuda {

namespace {

// A block sums a tile of 32 columns: first each of its warps every so many-th part (every 32nd, if there are as many),
// then a warp for each column what those have.
constexpr int kTile = kWarp;

struct Sums {
  const float* partial;
  int64_t num_parts;
  int64_t stride;  // from part to part
  int64_t columns;
  float* out[2];
};

__global__ void __launch_bounds__(kTile* kTile) sum_columns(Sums sums) {
  __shared__ float tile[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  float sum = 0;
  if (first + x < sums.columns) {
    const float* from = sums.partial + blockIdx.y * sums.columns + first + x;
    for (int64_t part = y; part < sums.num_parts; part += blockDim.y) sum += from[part * sums.stride];
  }
  tile[y][x] = sum;
  __syncthreads();
  const int num_warps = static_cast<int>(blockDim.y);
  for (int column = y; column < kTile; column += num_warps) {
    sum = warp_sum(x < num_warps ? tile[x][column] : 0.0f);
    if (x == 0 && first + column < sums.columns) sums.out[blockIdx.y][first + column] = sum;
  }
}

}  // namespace

void add_partial_sums(Stream& stream, const Tensor& partial, Tensor& first, Tensor& second) {
  const int64_t columns = first.numel();
  const Sums sums{.partial = partial.data<float>(),
                  .num_parts = partial.dim(0),
                  .stride = partial.dim(1) * columns,
                  .columns = columns,
                  .out = {first.data<float>(), second.defined() ? second.data<float>() : nullptr}};
  const auto num_warps = static_cast<unsigned>(std::clamp<int64_t>(sums.num_parts, 1, kTile));
  launch(stream, dim3(grid_size(ceil_div(columns, kTile)), second.defined() ? 2 : 1), dim3(kTile, num_warps), 0,
         sum_columns, sums);
}

}  // namespace trireme::cuda
