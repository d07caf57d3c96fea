#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/expert_rows.h"

namespace trireme::cuda {

namespace {

// A counting sort. A warp counts the experts of its tile of pairs; sums over those counts, tile by tile and expert by
// expert, say where the tile's pairs of an expert go; the warp then places them there in their order.
constexpr int kTile = 512;  // pairs
constexpr int kScanThreads = 1024;
constexpr int kScanWarps = kScanThreads / kWarp;
constexpr int kTileThreads = 256;  // of the block that adds up an expert's tiles

struct Pairs {
  const int32_t* experts;
  int64_t count;
  int num_experts;
  int expert_bits;  // that tell experts apart
  int32_t* before;  // [E, tiles]: a tile's pairs of an expert, then those of the tiles before it
  int32_t* starts;  // [E]: all pairs of an expert, then those of the experts before it
  int64_t* counts;
  int32_t* order;
  int32_t* position;
};

// The expert of pair n, or -1 for one that is left out.
__device__ __forceinline__ int32_t expert_of(const Pairs& pairs, int64_t n) {
  const int32_t expert = pairs.experts[n];
  return expert >= 0 && expert < pairs.num_experts ? expert : -1;
}

// One warp to a block.
__global__ void __launch_bounds__(kWarp) count_experts(Pairs pairs) {
  int* counts = dynamic_shared<int>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int e = lane; e < pairs.num_experts; e += kWarp) counts[e] = 0;
  __syncwarp();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int i = lane; i < kTile; i += kWarp) {
    if (begin + i >= pairs.count) break;
    const int32_t expert = expert_of(pairs, begin + i);
    if (expert >= 0) atomicAdd(&counts[expert], 1);
  }
  __syncwarp();
  for (int e = lane; e < pairs.num_experts; e += kWarp) {
    pairs.before[static_cast<int64_t>(e) * gridDim.x + blockIdx.x] = counts[e];
  }
}

// The sum of `value` over the block's threads before this one; `total` becomes that over all. One barrier before and one
// after it must lie between two calls with the same `slots`.
template <int kWarps>
__device__ int sum_of_those_before(int value, int* slots, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  int up_to = value;  // of this warp's threads, this one included
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int other = __shfl_up_sync(kAllLanes, up_to, offset);
    if (lane >= offset) up_to += other;
  }
  if (lane == kWarp - 1) slots[warp] = up_to;
  __syncthreads();
  int before = up_to - value;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += slots[w];
    total += slots[w];
  }
  return before;
}

// values[i] becomes the sum of those before it; returns the sum of all. The whole block works on one array.
template <int kThreads>
__device__ int scan(int32_t* values, int64_t count, int* slots) {
  int base = 0;
  for (int64_t first = 0; first < count; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const int value = i < count ? values[i] : 0;
    int total = 0;
    const int before = sum_of_those_before<kThreads / kWarp>(value, slots, total);
    if (i < count) values[i] = base + before;
    base += total;
    __syncthreads();
  }
  return base;
}

// One block to an expert.
__global__ void __launch_bounds__(kTileThreads) add_tiles(Pairs pairs, int64_t tiles) {
  __shared__ int slots[kTileThreads / kWarp];
  const int total = scan<kTileThreads>(pairs.before + blockIdx.x * tiles, tiles, slots);
  if (threadIdx.x != 0) return;
  pairs.counts[blockIdx.x] = total;
  pairs.starts[blockIdx.x] = total;
}

// One block.
__global__ void __launch_bounds__(kScanThreads) add_experts(Pairs pairs) {
  __shared__ int slots[kScanWarps];
  scan<kScanThreads>(pairs.starts, pairs.num_experts, slots);
}

// The lanes of `lanes` whose expert is this lane's.
__device__ __forceinline__ unsigned lanes_of_expert(unsigned lanes, int32_t expert, int bits) {
  unsigned same = lanes;
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = (expert >> bit & 1) != 0;
    const unsigned with = __ballot_sync(lanes, set);
    same &= set ? with : ~with;
  }
  return same;
}

// One warp to a block.
__global__ void __launch_bounds__(kWarp) place_pairs(Pairs pairs) {
  int* next = dynamic_shared<int>();  // where this tile's next pair of each expert goes
  const int lane = static_cast<int>(threadIdx.x);
  for (int e = lane; e < pairs.num_experts; e += kWarp) {
    next[e] = pairs.starts[e] + pairs.before[static_cast<int64_t>(e) * gridDim.x + blockIdx.x];
  }
  __syncwarp();
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t end = tile + kTile < pairs.count ? tile + kTile : pairs.count;
  for (int64_t begin = tile; begin < end; begin += kWarp) {
    const int64_t n = begin + lane;
    const int32_t expert = n < end ? expert_of(pairs, n) : -1;
    const unsigned lanes = __ballot_sync(kAllLanes, expert >= 0);
    if (expert >= 0) {
      const unsigned same = lanes_of_expert(lanes, expert, pairs.expert_bits);
      const int rank = __builtin_popcount(same & ((1u << lane) - 1));
      const int to = next[expert] + rank;
      __syncwarp(lanes);  // all have read before one writes
      if (rank == 0) next[expert] = to + __builtin_popcount(same);
      pairs.order[to] = static_cast<int32_t>(n);
      pairs.position[n] = to;
    } else if (n < end) {
      pairs.position[n] = -1;
    }
    __syncwarp();
  }
}

}  // namespace

void sort_by_expert(Stream& stream, const Tensor& experts, int64_t num_experts, Tensor& counts, Tensor& order,
                    Tensor& position) {
  const int64_t count = experts.numel();
  const int64_t tiles = ceil_div(count, kTile);
  const Tensor before = Tensor::empty(stream, {num_experts, tiles}, DType::i32, MemoryTag::workspace);
  const Tensor starts = Tensor::empty(stream, {num_experts}, DType::i32, MemoryTag::workspace);
  int bits = 0;
  while ((int64_t{1} << bits) < num_experts) ++bits;
  const Pairs pairs{.experts = experts.data<int32_t>(),
                    .count = count,
                    .num_experts = static_cast<int>(num_experts),
                    .expert_bits = bits,
                    .before = before.data<int32_t>(),
                    .starts = starts.data<int32_t>(),
                    .counts = counts.data<int64_t>(),
                    .order = order.data<int32_t>(),
                    .position = position.data<int32_t>()};
  const int64_t shared_bytes = num_experts * static_cast<int64_t>(sizeof(int));
  launch(stream, grid_size(tiles), kWarp, shared_bytes, count_experts, pairs);
  launch(stream, grid_size(num_experts), kTileThreads, 0, add_tiles, pairs, tiles);
  launch(stream, 1, kScanThreads, 0, add_experts, pairs);
  launch(stream, grid_size(tiles), kWarp, shared_bytes, place_pairs, pairs);
}

}  // namespace trireme::cuda
