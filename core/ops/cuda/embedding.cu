#include "core/ops/embedding.h"

#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/cuda/stable_sort.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// `positions` is null where there is no position embedding.
template <class T>
struct Lookup {
  const int32_t* tokens;
  const T* table;
  ops::VocabularyPart part;
  const int32_t* positions;
  const T* position_table;
  T* y;
  int64_t columns;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    const int64_t index = part.index_of(tokens[row]);
    Raw<T, kN> raw = {};
    if (index >= 0) raw = load_raw<kN>(table + index * columns + column);
    if (positions != nullptr) {
      Floats<kN> sum = widen(raw);
      const Floats<kN> position = load<kN>(position_table + positions[row] * columns + column);
#pragma unroll
      for (int j = 0; j < kN; ++j) sum.x[j] += position.x[j];
      raw = narrow<T>(sum);
    }
    store_raw(y + row * columns + column, raw);
  }
};

// The backward pass sorts the ids; equal ones are then neighbours, a run, in the order in which they came. A run of up
// to kShortRun is summed by a warp, all of it in that order. A longer one is summed by the kRunWarps warps of a block,
// each every so many-th row in that order; then come the warps' sums, in order.
constexpr int kShortRun = kWarp;
constexpr int kWarpsPerBlock = 8;
constexpr int kRunWarps = 16;
constexpr int kUnroll = 4;  // rows that a thread has under way

template <class T, class Table>
struct Runs {
  const int32_t* ids;        // rows of the table, sorted; those from `num_rows` on are none
  const int32_t* positions;  // where they stood
  const T* dy;
  Table* dtable;
  int64_t num_rows;
  int64_t count;
  int64_t columns;
};

template <int kN>
__device__ __forceinline__ void add(Floats<kN>& sum, const Floats<kN>& x) {
#pragma unroll
  for (int j = 0; j < kN; ++j) sum.x[j] += x.x[j];
}

template <class T, class Table, int kWidth>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarp) add_short_runs(Runs<T, Table> runs) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  if (begin >= runs.count) return;
  const int32_t id = runs.ids[begin];
  if (id >= runs.num_rows) return;
  if (begin > 0 && runs.ids[begin - 1] == id) return;  // not the first of its run
  if (begin + kShortRun < runs.count && runs.ids[begin + kShortRun] == id) return;
  const int64_t at = begin + lane;
  const bool mine = at < runs.count && runs.ids[at] == id;
  const int length = __builtin_popcount(__ballot_sync(kAllLanes, mine));
  const int32_t position = mine ? runs.positions[at] : 0;

  Table* row = runs.dtable + id * runs.columns;
  // All lanes go round as often: they exchange positions.
  for (int64_t first = 0; first < runs.columns; first += kWarp * kWidth) {
    const int64_t i = first + lane * kWidth;
    const bool active = i < runs.columns;
    Floats<kWidth> sum{};
    if (active) sum = load<kWidth>(row + i);
    for (int k = 0; k < length; k += kUnroll) {
      Raw<T, kWidth> raw[kUnroll] = {};
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (k + u >= length) break;
        const int64_t n = __shfl_sync(kAllLanes, position, k + u);
        if (active) raw[u] = load_raw<kWidth>(runs.dy + n * runs.columns + i);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (k + u < length) add(sum, widen(raw[u]));
      }
    }
    if (active) store<kWidth>(row + i, sum);
  }
}

// Where the run of `id` ends that holds position `at` of the sorted ids.
__device__ int64_t end_of_run(const int32_t* ids, int64_t at, int64_t count, int32_t id) {
  int64_t inside = at;
  int64_t outside = count;
  while (outside - inside > 1) {
    const int64_t middle = inside + (outside - inside) / 2;
    if (ids[middle] == id) {
      inside = middle;
    } else {
      outside = middle;
    }
  }
  return outside;
}

// Each long run holds a multiple of kShortRun; the block of the first such, and of a part of the columns, works on it.
template <class T, class Table, int kWidth>
__global__ void __launch_bounds__(kRunWarps* kWarp) add_long_runs(Runs<T, Table> runs) {
  __shared__ __align__(16) float sums[kRunWarps][kWarp * kWidth];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kShortRun;
  const int32_t id = runs.ids[at];
  if (id >= runs.num_rows) return;
  if (at > 0 && runs.ids[at - kShortRun] == id) return;
  const int64_t end = end_of_run(runs.ids, at, runs.count, id);
  int64_t begin = at;
  while (begin > 0 && runs.ids[begin - 1] == id) --begin;  // fewer than kShortRun
  if (end - begin <= kShortRun) return;

  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * kWarp + lane) * kWidth;
  const bool active = i < runs.columns;
  Floats<kWidth> sum{};
  for (int64_t k = begin + warp; k < end && active; k += kUnroll * kRunWarps) {
    Raw<T, kWidth> raw[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (k + u * kRunWarps >= end) break;
      raw[u] = load_raw<kWidth>(runs.dy + static_cast<int64_t>(runs.positions[k + u * kRunWarps]) * runs.columns + i);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (k + u * kRunWarps < end) add(sum, widen(raw[u]));
    }
  }
  store<kWidth>(&sums[warp][lane * kWidth], sum);
  __syncthreads();
  if (warp != 0 || !active) return;
  Table* row = runs.dtable + id * runs.columns + i;
  sum = load<kWidth>(row);
  for (int w = 0; w < kRunWarps; ++w) add(sum, load<kWidth>(&sums[w][lane * kWidth]));
  store<kWidth>(row, sum);
}

template <int kWidth, class T, class Table>
void launch_runs(Stream& stream, const Runs<T, Table>& runs) {
  launch(stream, grid_size(ceil_div(runs.count, kWarpsPerBlock)), kWarpsPerBlock * kWarp, 0,
         add_short_runs<T, Table, kWidth>, runs);
  if (runs.count <= kShortRun) return;
  const dim3 grid(grid_size(ceil_div(runs.count, kShortRun)), grid_size(ceil_div(runs.columns, kWarp * kWidth)));
  launch(stream, grid, kRunWarps * kWarp, 0, add_long_runs<T, Table, kWidth>, runs);
}

}  // namespace

void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const ops::VocabularyPart& part,
                       const Tensor& positions, const Tensor& position_table, Tensor& y) {
  const bool add_position = position_table.defined();
  with_float_type(y.dtype(), [&]<class T>(T) {
    constexpr int kWidth = kVector<T>;
    const Lookup<T> op{.tokens = tokens.data<int32_t>(),
                       .table = table.data<T>(),
                       .part = part,
                       .positions = add_position ? positions.data<int32_t>() : nullptr,
                       .position_table = add_position ? position_table.data<T>() : nullptr,
                       .y = y.data<T>(),
                       .columns = y.dim(1)};
    const bool aligned = op.columns % kWidth == 0 && is_aligned<kWidth>(op.table) &&
                         is_aligned<kWidth>(op.position_table) && is_aligned<kWidth>(op.y);
    for_rows<kWidth>(stream, y.dim(0), op.columns, aligned, op);
  });
}

void embedding_backward(Stream& stream, const Tensor& ids, const ops::VocabularyPart& part, const Tensor& dy,
                        Tensor& dtable, bool accumulate) {
  if (!accumulate) fill(stream, dtable, 0);
  if (dy.numel() == 0) return;
  const SortedIds sorted = stable_sort(stream, ids, part);
  with_float_type(dy.dtype(), [&]<class T>(T) {
    with_float_type(dtable.dtype(), [&]<class Table>(Table) {
      constexpr int kWidth = kVector<T>;
      const Runs<T, Table> runs{.ids = sorted.ids.data<int32_t>(),
                                .positions = sorted.positions.data<int32_t>(),
                                .dy = dy.data<T>(),
                                .dtable = dtable.data<Table>(),
                                .num_rows = part.size,
                                .count = dy.dim(0),
                                .columns = dy.dim(1)};
      if (runs.columns % kWidth == 0 && is_aligned<kWidth>(runs.dy) && is_aligned<kWidth>(runs.dtable)) {
        launch_runs<kWidth>(stream, runs);
      } else {
        launch_runs<1>(stream, runs);
      }
    });
  });
}

}  // namespace trireme::cuda
