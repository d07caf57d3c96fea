#include "core/ops/cuda/stable_sort.h"

#include <bit>

#include "core/ops/cuda/reduce.h"

namespace trireme::cuda {

namespace {

// A radix sort, lowest digit first (Knuth, volume 3, 5.2.5). Each pass: a warp counts the digits of its tile of
// elements; sums over those counts, digit by digit and tile by tile, say where the tile's elements of a digit go; the
// warp then moves them there in their order.
constexpr int kTile = 512;  // elements
constexpr int kMostDigitBits = 9;
constexpr int kScanThreads = 1024;

struct Pass {
  const int32_t* ids;
  const int32_t* positions;  // null in the first pass: element n stands at n
  int32_t* sorted_ids;
  int32_t* sorted_positions;
  int32_t* offsets;  // [digits, tiles]: counts, then where to
  ops::VocabularyPart part;
  int64_t count;
  int shift;
  int digit_bits;
};

// Element n as it counts, which is as it stands but in the first pass.
__device__ __forceinline__ int32_t id_of(const Pass& pass, int64_t n) {
  const int32_t id = pass.ids[n];
  if (pass.positions != nullptr) return id;
  const int64_t index = pass.part.index_of(id);
  return static_cast<int32_t>(index >= 0 ? index : pass.part.size);
}

__device__ __forceinline__ int digit_of(const Pass& pass, int32_t id) {
  return (id >> pass.shift) & ((1 << pass.digit_bits) - 1);
}

// One warp to a block.
__global__ void __launch_bounds__(kWarp) count_digits(Pass pass) {
  __shared__ int counts[1 << kMostDigitBits];
  const int lane = static_cast<int>(threadIdx.x);
  const int num_digits = 1 << pass.digit_bits;
  for (int d = lane; d < num_digits; d += kWarp) counts[d] = 0;
  __syncwarp();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int i = lane; i < kTile; i += kWarp) {
    if (begin + i < pass.count) atomicAdd(&counts[digit_of(pass, id_of(pass, begin + i))], 1);
  }
  __syncwarp();
  for (int d = lane; d < num_digits; d += kWarp) {
    pass.offsets[static_cast<int64_t>(d) * gridDim.x + blockIdx.x] = counts[d];
  }
}

// values[i] becomes the sum of those before it. One block; each thread has one stretch of them.
__global__ void __launch_bounds__(kScanThreads) sum_before(int32_t* values, int64_t count) {
  __shared__ int warp_sums[kScanThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int64_t stretch = (count + kScanThreads - 1) / kScanThreads;
  const int64_t begin = thread * stretch;
  const int64_t end = begin + stretch < count ? begin + stretch : count;
  int sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += values[i];
  int up_to = sum;  // of this warp's threads, this one included
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int other = __shfl_up_sync(kAllLanes, up_to, offset);
    if (lane >= offset) up_to += other;
  }
  if (lane == kWarp - 1) warp_sums[thread / kWarp] = up_to;
  __syncthreads();
  int before = up_to - sum;
  for (int warp = 0; warp < thread / kWarp; ++warp) before += warp_sums[warp];
  for (int64_t i = begin; i < end; ++i) {
    const int value = values[i];
    values[i] = before;
    before += value;
  }
}

// The lanes of `lanes` whose digit is this lane's.
__device__ __forceinline__ unsigned lanes_of_digit(unsigned lanes, int digit, int digit_bits) {
  unsigned same = lanes;
  for (int bit = 0; bit < digit_bits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const unsigned with = __ballot_sync(lanes, set);
    same &= set ? with : ~with;
  }
  return same;
}

// One warp to a block.
__global__ void __launch_bounds__(kWarp) move_elements(Pass pass) {
  __shared__ int next[1 << kMostDigitBits];  // where this tile's next element of each digit goes
  const int lane = static_cast<int>(threadIdx.x);
  for (int d = lane; d < 1 << pass.digit_bits; d += kWarp) {
    next[d] = pass.offsets[static_cast<int64_t>(d) * gridDim.x + blockIdx.x];
  }
  __syncwarp();
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t end = tile + kTile < pass.count ? tile + kTile : pass.count;
  for (int64_t begin = tile; begin < end; begin += kWarp) {
    const int64_t n = begin + lane;
    const unsigned lanes = __ballot_sync(kAllLanes, n < end);
    if (n < end) {
      const int32_t id = id_of(pass, n);
      const int digit = digit_of(pass, id);
      const unsigned same = lanes_of_digit(lanes, digit, pass.digit_bits);
      const int rank = __builtin_popcount(same & ((1u << lane) - 1));
      const int to = next[digit] + rank;
      __syncwarp(lanes);  // all have read before one writes
      if (rank == 0) next[digit] = to + __builtin_popcount(same);
      pass.sorted_ids[to] = id;
      pass.sorted_positions[to] = pass.positions != nullptr ? pass.positions[n] : static_cast<int32_t>(n);
    }
    __syncwarp();
  }
}

}  // namespace

SortedIds stable_sort(Stream& stream, const Tensor& ids, const ops::VocabularyPart& part) {
  const int64_t count = ids.numel();
  TRIREME_CHECK(count <= INT32_MAX && part.size < INT32_MAX, "too many ids to sort");
  const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(part.size, 1))));
  const int num_passes = (bits + kMostDigitBits - 1) / kMostDigitBits;
  const int digit_bits = (bits + num_passes - 1) / num_passes;
  const int64_t tiles = ceil_div(count, kTile);
  const Tensor offsets = Tensor::empty(stream, {tiles << digit_bits}, DType::i32, MemoryTag::workspace);

  SortedIds from{ids, Tensor()};
  for (int pass = 0; pass < num_passes; ++pass) {
    SortedIds to{Tensor::empty(stream, {count}, DType::i32, MemoryTag::workspace),
                 Tensor::empty(stream, {count}, DType::i32, MemoryTag::workspace)};
    const Pass args{.ids = from.ids.data<int32_t>(),
                    .positions = from.positions.defined() ? from.positions.data<int32_t>() : nullptr,
                    .sorted_ids = to.ids.data<int32_t>(),
                    .sorted_positions = to.positions.data<int32_t>(),
                    .offsets = offsets.data<int32_t>(),
                    .part = part,
                    .count = count,
                    .shift = pass * digit_bits,
                    .digit_bits = digit_bits};
    launch(stream, grid_size(tiles), kWarp, 0, count_digits, args);
    if (tiles > 0) launch(stream, 1, kScanThreads, 0, sum_before, args.offsets, tiles << digit_bits);
    launch(stream, grid_size(tiles), kWarp, 0, move_elements, args);
    from = to;
  }
  return from;
}

}  // namespace trireme::cuda
