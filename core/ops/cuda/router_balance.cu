#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/router_rows.h"

namespace trireme::cuda {

namespace {

using ops::Scoring;

// A block sums a segment: up to kSegment tokens of one stretch. Then come the segments' sums, in order.
constexpr int kSegment = 128;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = kWarp;
constexpr int kTotalThreads = 1024;

// Each output and its parts are null where it isn't made.
struct Statistics {
  const float* logits;
  const float* scores;
  const int32_t* experts;
  Scoring scoring;
  int64_t tokens;
  int64_t choices;
  int64_t slots;
  ops::TokenStretches stretches;
  int64_t first_stretch;
  int64_t segments;            // of a stretch
  int32_t* part_counts;        // [stretches, segments, E]
  double* part_probabilities;  // [stretches, segments, E]
  double* part_sums;           // [stretches, segments, 2]
};

struct RowSums {
  double squares = 0;
  double entropy = 0;
};

// One token's; `factor` is what makes probabilities of its scores.
__device__ void add_sums(const Statistics& args, int64_t row, float factor, int lane, RowSums& sums) {
  const float* x = args.logits + row * args.choices;
  const float* s = args.scores + row * args.choices;
  const RowLogSumExp total = row_log_sum_exp(x, args.choices, lane);
  const double value = total.value();
  float entropy = 0;
  for (int64_t e = lane; e < args.choices; e += kWarp) {
    const float p = s[e] * factor;
    const float log_p = args.scoring == Scoring::softmax ? (x[e] - total.max) - total.log_sum : std::log(p);
    if (p > 0.0f) entropy -= p * log_p;
  }
  sums.squares += value * value;
  sums.entropy += static_cast<double>(warp_sum(entropy));
}

// Dynamic shared memory: E counts.
__global__ void __launch_bounds__(kThreads) sum_segments(Statistics args) {
  __shared__ float factors[kSegment];
  __shared__ double slots[2][kWarps];
  int* counts = dynamic_shared<int>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t stretch_begin = (args.first_stretch + blockIdx.y) * args.stretches.length - args.stretches.first_token;
  const int64_t stretch_end = stretch_begin + args.stretches.length;
  const int64_t from = stretch_begin > 0 ? stretch_begin : 0;
  const int64_t limit = stretch_end < args.tokens ? stretch_end : args.tokens;
  const int64_t begin = from + static_cast<int64_t>(blockIdx.x) * kSegment;
  const int64_t end = begin + kSegment < limit ? begin + kSegment : limit;  // may lie before `begin`
  const int64_t part = static_cast<int64_t>(blockIdx.y) * args.segments + blockIdx.x;

  RowSums sums;
  for (int64_t row = begin + warp; row < end; row += kWarps) {
    float factor = 1;
    if (args.scoring == Scoring::sigmoid) factor = 1.0f / row_sum(args.scores + row * args.choices, args.choices, lane);
    if (lane == 0) factors[row - begin] = factor;
    if (args.part_sums != nullptr) add_sums(args, row, factor, lane, sums);
  }
  if (args.part_counts != nullptr) {
    for (int64_t e = threadIdx.x; e < args.choices; e += kThreads) counts[e] = 0;
  }
  __syncthreads();

  if (args.part_counts != nullptr) {
    for (int64_t i = begin * args.slots + threadIdx.x; i < end * args.slots; i += kThreads) {
      const int32_t expert = args.experts[i];
      if (expert >= 0) atomicAdd(&counts[expert], 1);
    }
  }
  if (args.part_probabilities != nullptr) {
    for (int64_t e = threadIdx.x; e < args.choices; e += kThreads) {
      double sum = 0;
      for (int64_t row = begin; row < end; ++row) {
        sum += static_cast<double>(args.scores[row * args.choices + e] * factors[row - begin]);
      }
      args.part_probabilities[part * args.choices + e] = sum;
    }
  }
  if (args.part_sums != nullptr) {  // each warp's are the same in all of its lanes
    if (lane == 0) {
      slots[0][warp] = sums.squares;
      slots[1][warp] = sums.entropy;
    }
  }
  __syncthreads();
  if (args.part_counts != nullptr) {
    for (int64_t e = threadIdx.x; e < args.choices; e += kThreads)
      args.part_counts[part * args.choices + e] = counts[e];
  }
  if (args.part_sums != nullptr && threadIdx.x < 2) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += slots[threadIdx.x][w];
    args.part_sums[part * 2 + threadIdx.x] = sum;
  }
}

// out[y, c] += Σ_p parts[y, p, c]: a block sums a tile of 32 columns, each of its warps every 32nd part; then come the
// warps' sums, in order.
template <class Part, class Sum>
__global__ void __launch_bounds__(kTile* kTile)
    add_parts(const Part* parts, int64_t num_parts, int64_t columns, Sum* out) {
  __shared__ Sum tile[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x) % kTile;
  const int y = static_cast<int>(threadIdx.x) / kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile + x;
  Sum sum = 0;
  if (column < columns) {
    const Part* from = parts + blockIdx.y * num_parts * columns + column;
    for (int64_t p = y; p < num_parts; p += kTile) sum += static_cast<Sum>(from[p * columns]);
  }
  tile[y][x] = sum;
  __syncthreads();
  if (y != 0 || column >= columns) return;
  for (int w = 1; w < kTile; ++w) sum += tile[w][x];
  out[blockIdx.y * columns + column] += sum;
}

template <class Part, class Sum>
void launch_parts(Stream& stream, const Part* parts, int64_t tables, int64_t num_parts, int64_t columns, Sum* out) {
  launch(stream, dim3(grid_size(ceil_div(columns, kTile)), grid_size(tables)), kTile * kTile, 0, add_parts<Part, Sum>,
         parts, num_parts, columns, out);
}

struct Balance {
  const int64_t* counts;
  const double* probabilities;
  const float* emphasis;  // or null
  double factor;
  float* gradient;
  double* loss;
  int64_t count;
  int64_t choices;
  bool one_row_of_counts;
};

// One block.
__global__ void __launch_bounds__(kTotalThreads) balance(Balance args) {
  __shared__ double slots[kMaxWarps];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < args.count; i += kTotalThreads) {
    const int64_t e = i % args.choices;
    const double emphasis = args.emphasis != nullptr ? args.emphasis[e] : 1.0;
    const double slope = args.factor * emphasis * static_cast<double>(args.counts[args.one_row_of_counts ? e : i]);
    args.gradient[i] = static_cast<float>(slope);
    sum += slope * args.probabilities[i];
  }
  sum = group_sum(sum, slots, static_cast<int>(threadIdx.x) / kWarp, kMaxWarps);
  if (threadIdx.x == 0) *args.loss += sum;
}

// One block.
__global__ void __launch_bounds__(kTotalThreads)
    update_bias(const int64_t* counts, int64_t choices, float rate, const int32_t* non_finite, float* bias) {
  __shared__ int64_t slots[kMaxWarps];
  if (*non_finite != 0) return;
  int64_t total = 0;
  for (int64_t e = threadIdx.x; e < choices; e += kTotalThreads) total += counts[e];
  total = group_sum(total, slots, static_cast<int>(threadIdx.x) / kWarp, kMaxWarps);
  for (int64_t e = threadIdx.x; e < choices; e += kTotalThreads) {
    const int64_t lack = total - choices * counts[e];
    if (lack != 0) bias[e] += lack > 0 ? rate : -rate;
  }
}

}  // namespace

void router_statistics(Stream& stream, const Tensor& logits, const Tensor& scores, Scoring scoring,
                       const Tensor& experts, const ops::TokenStretches& stretches, Tensor& counts,
                       Tensor& probabilities, Tensor& sums) {
  const int64_t tokens = scores.dim(0);
  const int64_t choices = scores.dim(1);
  const bool counted = counts.defined();
  const int64_t first = stretches.first_token / stretches.length;
  const int64_t num_stretches = (stretches.first_token + tokens - 1) / stretches.length - first + 1;
  const int64_t segments = ceil_div(std::min(stretches.length, tokens), kSegment);
  const int64_t parts = num_stretches * segments;
  const auto room = [&](bool made, int64_t columns, DType dtype) {
    return made ? Tensor::empty(stream, {parts, columns}, dtype, MemoryTag::workspace) : Tensor{};
  };
  const Tensor part_counts = room(counted, choices, DType::i32);
  const Tensor part_probabilities = room(probabilities.defined(), choices, DType::f64);
  const Tensor part_sums = room(sums.defined(), 2, DType::f64);
  const Statistics args{.logits = logits.data<float>(),
                        .scores = scores.data<float>(),
                        .experts = counted ? experts.data<int32_t>() : nullptr,
                        .scoring = scoring,
                        .tokens = tokens,
                        .choices = choices,
                        .slots = counted ? experts.dim(1) : 0,
                        .stretches = stretches,
                        .first_stretch = first,
                        .segments = segments,
                        .part_counts = counted ? part_counts.data<int32_t>() : nullptr,
                        .part_probabilities = probabilities.defined() ? part_probabilities.data<double>() : nullptr,
                        .part_sums = sums.defined() ? part_sums.data<double>() : nullptr};
  launch(stream, dim3(grid_size(segments), grid_size(num_stretches)), kThreads,
         counted ? choices * static_cast<int64_t>(sizeof(int)) : 0, sum_segments, args);
  if (counted) {
    launch_parts(stream, args.part_counts, num_stretches, segments, choices, counts.data<int64_t>() + first * choices);
  }
  if (probabilities.defined()) {
    launch_parts(stream, args.part_probabilities, num_stretches, segments, choices,
                 probabilities.data<double>() + first * choices);
  }
  if (sums.defined()) launch_parts(stream, args.part_sums, 1, parts, 2, sums.data<double>());
}

void balance_loss(Stream& stream, const Tensor& counts, const Tensor& probabilities, const Tensor& emphasis,
                  double factor, Tensor& gradient, Tensor& loss) {
  launch(stream, 1, kTotalThreads, 0, balance,
         Balance{.counts = counts.data<int64_t>(),
                 .probabilities = probabilities.data<double>(),
                 .emphasis = emphasis.defined() ? emphasis.data<float>() : nullptr,
                 .factor = factor,
                 .gradient = gradient.data<float>(),
                 .loss = loss.data<double>(),
                 .count = probabilities.numel(),
                 .choices = probabilities.dim(1),
                 .one_row_of_counts = counts.dim(0) == 1});
}

void update_balance_bias(Stream& stream, const Tensor& counts, float rate, const Tensor& non_finite, Tensor& bias) {
  launch(stream, 1, kTotalThreads, 0, update_bias, counts.data<int64_t>(), counts.numel(), rate,
         non_finite.data<int32_t>(), bias.data<float>());
}

}  // namespace trireme::cuda
