#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/lanes.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

// Where the heads of a packed row lie.
struct Heads {
  int64_t num_query;
  int64_t num_kv;
  int64_t dim;

  int64_t num_normed() const { return num_query + num_kv; }
  int64_t row() const { return (num_query + 2 * num_kv) * dim; }
};

// kDim is the head dim where it is a usual one, so that the short loops are laid out flat; 0 reads it from `heads`.
template <class T, int64_t kDim>
TRIREME_MULTIVERSION void forward_row(const Heads& heads, const T* x, const T* q_weight, const T* k_weight, float eps,
                                      T* y, float* rstd) {
  const int64_t dim = kDim > 0 ? kDim : heads.dim;
  for (int64_t h = 0; h < heads.num_normed(); ++h) {
    const T* in = x + h * dim;
    const T* weight = h < heads.num_query ? q_weight : k_weight;
    T* out = y + h * dim;
    const float squares = sum_of(
        dim, [&](auto load) __attribute__((always_inline)) { return load(in) * load(in); });
    const float r = 1.0f / std::sqrt(squares / static_cast<float>(dim) + eps);
    rstd[h] = r;
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) math::store(out + i, math::load(in + i) * r * math::load(weight + i));
  }
}

// One row in place; adds to dweights [2, D], of queries and of keys.
template <class T, int64_t kDim>
TRIREME_MULTIVERSION void backward_row(const Heads& heads, T* d, const T* x, const T* q_weight, const T* k_weight,
                                       const float* rstd, float* dweights) {
  const int64_t dim = kDim > 0 ? kDim : heads.dim;
  for (int64_t head = 0; head < heads.num_normed(); ++head) {
    const bool query = head < heads.num_query;
    const T* in = x + head * dim;
    T* dy = d + head * dim;
    const T* weight = query ? q_weight : k_weight;
    float* dweight = query ? dweights : dweights + dim;
    const float r = rstd[head];
    const float sum = sum_of(
        dim, [&](auto load) __attribute__((always_inline)) { return load(dy) * load(weight) * (load(in) * r); });
    const float mean = sum / static_cast<float>(dim);
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) {
      const float g = math::load(dy + i);
      const float h = math::load(in + i) * r;
      dweight[i] = std::fma(g, h, dweight[i]);
      math::store(dy + i, std::fma(-h, mean, g * math::load(weight + i)) * r);
    }
  }
}

// Calls f(integral_constant<kDim>).
template <class F>
void with_head_dim(int64_t dim, F&& f) {
  if (dim == 64) {
    f(std::integral_constant<int64_t, 64>{});
  } else if (dim == 128) {
    f(std::integral_constant<int64_t, 128>{});
  } else {
    f(std::integral_constant<int64_t, 0>{});
  }
}

}  // namespace

void qk_norm_forward(Stream& stream, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     int64_t num_heads, int64_t num_kv_heads, float eps, Tensor& out, Tensor& rstd) {
  const Heads heads{num_heads, num_kv_heads, q_weight.dim(0)};
  const int64_t row = heads.row();
  const int64_t normed = heads.num_normed();
  float* stats = rstd.data<float>();
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    const T* x = qkv.data<T>();
    T* y = out.data<T>();
    const T* q = q_weight.data<T>();
    const T* k = k_weight.data<T>();
    const int64_t values = normed * heads.dim;  // where they begin in a row
    with_head_dim(heads.dim, [&]<int64_t kDim>(std::integral_constant<int64_t, kDim>) {
      stream.pool().for_ranges(qkv.dim(0), rows_per_piece(row), [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          forward_row<T, kDim>(heads, x + n * row, q, k, eps, y + n * row, stats + n * normed);
          std::memcpy(y + n * row + values, x + n * row + values, static_cast<size_t>(row - values) * sizeof(T));
        }
      });
    });
  });
}

void qk_norm_backward(Stream& stream, Tensor& dqkv, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                      const Tensor& rstd, int64_t num_heads, int64_t num_kv_heads, Tensor& dq_weight,
                      Tensor& dk_weight) {
  const Heads heads{num_heads, num_kv_heads, q_weight.dim(0)};
  const int64_t row = heads.row();
  const int64_t num_rows = qkv.dim(0);
  const int64_t block = rows_per_block(num_rows);
  const int64_t num_blocks = num_row_blocks(num_rows);
  const Tensor partial = Tensor::empty(stream, {num_blocks, 2, heads.dim}, DType::f32, MemoryTag::workspace);
  float* sums = partial.data<float>();
  const float* stats = rstd.data<float>();
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    T* d = dqkv.data<T>();
    const T* x = qkv.data<T>();
    const T* q = q_weight.data<T>();
    const T* k = k_weight.data<T>();
    with_head_dim(heads.dim, [&]<int64_t kDim>(std::integral_constant<int64_t, kDim>) {
      stream.pool().for_ranges(num_rows, block, [&](int64_t begin, int64_t end) {
        float* dweights = sums + begin / block * 2 * heads.dim;
        std::fill(dweights, dweights + 2 * heads.dim, 0.0f);
        for (int64_t n = begin; n < end; ++n) {
          backward_row<T, kDim>(heads, d + n * row, x + n * row, q, k, stats + n * heads.num_normed(), dweights);
        }
      });
    });
  });
  ThreadPool& pool = stream.pool();
  add_partial_sums(pool, sums, num_blocks, 2 * heads.dim, heads.dim, /*accumulate=*/false, dq_weight.data<float>());
  add_partial_sums(pool, sums + heads.dim, num_blocks, 2 * heads.dim, heads.dim, /*accumulate=*/false,
                   dk_weight.data<float>());
}

}  // namespace trireme::cpu
