#include <cmath>

#include "core/ops/cuda/column_sum.h"
#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"
#include "core/ops/cuda/reduce.h"
#include "core/ops/float_type.h"

namespace trireme::cuda {

namespace {

// Where the heads of a packed row lie.
struct Heads {
  int num_query;
  int num_kv;
  int dim;

  __host__ __device__ int num_normed() const { return num_query + num_kv; }
  __host__ __device__ int num_all() const { return num_query + 2 * num_kv; }
};

// kLanes neighbouring lanes work on a head; each has every kLanes-th vector of it, of which it keeps the first in
// registers. That is all of it, but for very long heads and those that no vector divides.
template <class T, int kWidth, int kLanes>
__device__ __forceinline__ Raw<T, kWidth> load_first(const T* head, int lane, int dim) {
  Raw<T, kWidth> raw{};
  if (lane * kWidth < dim) raw = load_raw<kWidth>(head + lane * kWidth);
  return raw;
}

template <class T, int kWidth, int kLanes>
__device__ __forceinline__ Floats<kWidth> get(const Raw<T, kWidth>& first, const T* head, int i) {
  return widen(i < kLanes * kWidth ? first : load_raw<kWidth>(head + i));
}

template <class T, int kWidth, int kLanes>
struct Forward {
  const T* qkv;
  const T* q_weight;
  const T* k_weight;
  T* out;
  float* rstd;
  float eps;
  Heads heads;

  // A row has kLanes items for each of its heads.
  template <int kN>
  __device__ void run(int64_t row, int64_t item) const {
    const int h = static_cast<int>(item) / kLanes;
    const int lane = static_cast<int>(item) % kLanes;
    const int dim = heads.dim;
    const int64_t at = (row * heads.num_all() + h) * dim;
    const T* head = qkv + at;
    const Raw<T, kWidth> first = load_first<T, kWidth, kLanes>(head, lane, dim);
    const bool normed = h < heads.num_normed();
    float scale = 1;
    if (normed) {
      float squares = 0;
#pragma unroll 1
      for (int i = lane * kWidth; i < dim; i += kLanes * kWidth) {
        const Floats<kWidth> x = get<T, kWidth, kLanes>(first, head, i);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) squares = std::fma(x.x[j], x.x[j], squares);
      }
      squares = warp_sum<kLanes>(squares);
      scale = 1.0f / std::sqrt(squares / static_cast<float>(dim) + eps);
      if (lane == 0) rstd[row * heads.num_normed() + h] = scale;
    }
    const T* weight = h < heads.num_query ? q_weight : k_weight;
#pragma unroll 1
    for (int i = lane * kWidth; i < dim; i += kLanes * kWidth) {
      Floats<kWidth> x = get<T, kWidth, kLanes>(first, head, i);
      if (normed) {
        const Floats<kWidth> w = load<kWidth>(weight + i);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) x.x[j] = x.x[j] * scale * w.x[j];
      }
      store<kWidth>(out + at + i, x);
    }
  }
};

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 4 * kMostParts;

template <class T>
struct BackwardRows {
  T* dqkv;
  const T* qkv;
  const T* q_weight;
  const T* k_weight;
  const float* rstd;
  float* partial;  // [blocks, 2, D]: Σ of dq_weight and dk_weight
  int64_t rows;
  Heads heads;
};

// One head in place; adds to dweight [D], of which each lane owns the elements that it reads.
template <class T, int kWidth, int kLanes>
__device__ __forceinline__ void backward_head(T* d, const T* x, const T* weight, float rstd, int dim, int lane,
                                              float* dweight) {
  const Raw<T, kWidth> first_d = load_first<T, kWidth, kLanes>(d, lane, dim);
  const Raw<T, kWidth> first_x = load_first<T, kWidth, kLanes>(x, lane, dim);
  float sum = 0;
#pragma unroll 1
  for (int i = lane * kWidth; i < dim; i += kLanes * kWidth) {
    const Floats<kWidth> g = get<T, kWidth, kLanes>(first_d, d, i);
    const Floats<kWidth> value = get<T, kWidth, kLanes>(first_x, x, i);
    const Floats<kWidth> w = load<kWidth>(weight + i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum = std::fma(g.x[j] * w.x[j], value.x[j] * rstd, sum);
  }
  const float mean = warp_sum<kLanes>(sum) / static_cast<float>(dim);
#pragma unroll 1
  for (int i = lane * kWidth; i < dim; i += kLanes * kWidth) {
    Floats<kWidth> g = get<T, kWidth, kLanes>(first_d, d, i);
    const Floats<kWidth> value = get<T, kWidth, kLanes>(first_x, x, i);
    const Floats<kWidth> w = load<kWidth>(weight + i);
    Floats<kWidth> total = load<kWidth>(dweight + i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float h = value.x[j] * rstd;
      total.x[j] = std::fma(g.x[j], h, total.x[j]);
      g.x[j] = std::fma(-h, mean, g.x[j] * w.x[j]) * rstd;
    }
    store<kWidth>(dweight + i, total);
    store<kWidth>(d + i, g);
  }
}

// A group of kLanes lanes works on every so many-th row, with its own sums [2, D] in shared memory.
template <class T, int kWidth, int kLanes>
__global__ void __launch_bounds__(kThreads) backward_rows(BackwardRows<T> rows) {
  constexpr int kGroups = kThreads / kLanes;
  const Heads heads = rows.heads;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  float* sums = dynamic_shared<float>();
  float* mine = sums + group * 2 * heads.dim;
  for (int i = lane * kWidth; i < heads.dim; i += kLanes * kWidth) {
    store<kWidth>(mine + i, Floats<kWidth>{});
    store<kWidth>(mine + heads.dim + i, Floats<kWidth>{});
  }
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kGroups + group; n < rows.rows; n += gridDim.x * kGroups) {
    for (int h = 0; h < heads.num_normed(); ++h) {
      const int64_t at = (n * heads.num_all() + h) * heads.dim;
      const bool query = h < heads.num_query;
      backward_head<T, kWidth, kLanes>(rows.dqkv + at, rows.qkv + at, query ? rows.q_weight : rows.k_weight,
                                       rows.rstd[n * heads.num_normed() + h], heads.dim, lane,
                                       query ? mine : mine + heads.dim);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * heads.dim; i += kThreads) {
    float sum = 0;
    for (int g = 0; g < kGroups; ++g) sum += sums[g * 2 * heads.dim + i];
    rows.partial[static_cast<int64_t>(blockIdx.x) * 2 * heads.dim + i] = sum;
  }
}

// Calls f(vector width, lanes), both integral_constants, with what suits heads of this length.
template <class T, class F>
void with_lanes(int64_t dim, bool aligned, F&& f) {
  constexpr int kWidth = kVector<T>;
  using Vector = std::integral_constant<int, kWidth>;
  if (!aligned || dim % kWidth != 0) {
    f(std::integral_constant<int, 1>{}, std::integral_constant<int, 32>{});
  } else if (dim <= 8 * kWidth) {
    f(Vector{}, std::integral_constant<int, 8>{});
  } else if (dim <= 16 * kWidth) {
    f(Vector{}, std::integral_constant<int, 16>{});
  } else {
    f(Vector{}, std::integral_constant<int, 32>{});
  }
}

Heads make_heads(int64_t num_heads, int64_t num_kv_heads, int64_t dim) {
  TRIREME_CHECK((num_heads + 2 * num_kv_heads) * dim <= INT32_MAX, "qk_norm: a row of too many elements");
  return {static_cast<int>(num_heads), static_cast<int>(num_kv_heads), static_cast<int>(dim)};
}

}  // namespace

void qk_norm_forward(Stream& stream, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     int64_t num_heads, int64_t num_kv_heads, float eps, Tensor& out, Tensor& rstd) {
  const Heads heads = make_heads(num_heads, num_kv_heads, q_weight.dim(0));
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    constexpr int kMost = kVector<T>;
    const bool aligned = is_aligned<kMost>(qkv.data<T>()) && is_aligned<kMost>(q_weight.data<T>()) &&
                         is_aligned<kMost>(k_weight.data<T>()) && is_aligned<kMost>(out.data<T>());
    with_lanes<T>(heads.dim, aligned, [&](auto width, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      const Forward<T, decltype(width)::value, kLanes> op{.qkv = qkv.data<T>(),
                                                          .q_weight = q_weight.data<T>(),
                                                          .k_weight = k_weight.data<T>(),
                                                          .out = out.data<T>(),
                                                          .rstd = rstd.data<float>(),
                                                          .eps = eps,
                                                          .heads = heads};
      for_rows<1>(stream, qkv.dim(0), int64_t{heads.num_all()} * kLanes, /*aligned=*/true, op);
    });
  });
}

void qk_norm_backward(Stream& stream, Tensor& dqkv, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                      const Tensor& rstd, int64_t num_heads, int64_t num_kv_heads, Tensor& dq_weight,
                      Tensor& dk_weight) {
  const Heads heads = make_heads(num_heads, num_kv_heads, q_weight.dim(0));
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    constexpr int kMost = kVector<T>;
    BackwardRows<T> rows{.dqkv = dqkv.data<T>(),
                         .qkv = qkv.data<T>(),
                         .q_weight = q_weight.data<T>(),
                         .k_weight = k_weight.data<T>(),
                         .rstd = rstd.data<float>(),
                         .partial = nullptr,
                         .rows = qkv.dim(0),
                         .heads = heads};
    const bool aligned = is_aligned<kMost>(rows.dqkv) && is_aligned<kMost>(rows.qkv) &&
                         is_aligned<kMost>(rows.q_weight) && is_aligned<kMost>(rows.k_weight);
    with_lanes<T>(heads.dim, aligned, [&](auto width, auto lanes) {
      constexpr int64_t kGroups = kThreads / decltype(lanes)::value;
      const int64_t blocks = std::min(ceil_div(rows.rows, kGroups), kMostBlocks);
      const Tensor partial = Tensor::empty(stream, {blocks, 2, heads.dim}, DType::f32, MemoryTag::workspace);
      rows.partial = partial.data<float>();
      launch(stream, grid_size(blocks), kThreads, kGroups * 2 * heads.dim * static_cast<int64_t>(sizeof(float)),
             backward_rows<T, decltype(width)::value, decltype(lanes)::value>, rows);
      add_partial_sums(stream, partial, dq_weight, dk_weight);
    });
  });
}

}  // namespace trireme::cuda
