#include "core/ops/cuda/attention_kernels.h"

#include <cfloat>
#include <cmath>

#include "core/ops/cuda/attention_tiles.h"

namespace trireme::cuda {

namespace {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int64_t kMaxHeadDim = 256;

// One call, as the kernels see it.
template <class T>
struct Call {
  const T* qkv;                   // [B·T, (H + 2·KV)·D]
  const int32_t* document_start;  // [B·T] or null
  const T* out;                   // [B·T, H·D]
  float* lse;                     // [B, H, T]
  const T* dout;
  const float* delta;  // [B, H, T]: Σ_d dout·out
  T* written;          // out in forward, dqkv in backward
  int sequence, num_heads, num_kv_heads, head_dim;
  float scale;
  int stride;   // of a tile
  bool vector;  // 16-byte access is possible

  __device__ int64_t qkv_stride() const { return static_cast<int64_t>(num_heads + 2 * num_kv_heads) * head_dim; }
  __device__ int64_t out_stride() const { return static_cast<int64_t>(num_heads) * head_dim; }
  __device__ int64_t row(int batch, int t) const { return static_cast<int64_t>(batch) * sequence + t; }
  // Of a head among all that lie in a row of qkv: queries, keys, values.
  __device__ int64_t qkv_at(int batch, int t, int head) const {
    return row(batch, t) * qkv_stride() + static_cast<int64_t>(head) * head_dim;
  }
  __device__ int64_t out_at(int batch, int t, int head) const {
    return row(batch, t) * out_stride() + static_cast<int64_t>(head) * head_dim;
  }
  __device__ int64_t statistic_at(int batch, int t, int head) const {
    return (static_cast<int64_t>(batch) * num_heads + head) * sequence + t;
  }
  __device__ int first_key(int batch, int t) const {
    return document_start == nullptr ? 0 : document_start[row(batch, t)];
  }
  __device__ int padded_dim() const { return stride - kPad; }
};

// Over the 16 lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int distance = kSide / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  return x;
}

__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int distance = kSide / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

// A block makes the output of kRows queries of one head. Later queries see more keys: their blocks start first.
template <class T, int R, int kChunks>
__global__ void __launch_bounds__(kAttentionThreads) forward_kernel(Call<T> call) {
  constexpr int kRows = R * kSide;
  constexpr int kSquare = kRows + kPad;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int batch = static_cast<int>(blockIdx.z);
  const int kv_head = head / (call.num_heads / call.num_kv_heads);
  const int begin = tile * kRows;
  const int depth = call.padded_dim();
  float* const q = dynamic_shared<float>();
  float* const k = q + kRows * call.stride;
  float* const v = k + kRows * call.stride;
  float* const square = v + kRows * call.stride;

  load_tile(call.qkv + call.qkv_at(batch, begin, head), call.qkv_stride(), call.sequence - begin, kRows, call.head_dim,
            call.vector, q, call.stride);
  float max[R];
  float sum[R];  // of this lane's columns
  int start[R];
  Wide<R, kChunks> out;
  out.clear();
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + R * lane_y() + i;
    start[i] = t < call.sequence ? call.first_key(batch, t) : 0;
    max[i] = -INFINITY;
    sum[i] = 0.0f;
  }

  for (int other = call.first_key(batch, begin) / kRows; other <= tile; ++other) {
    const int key_begin = other * kRows;
    __syncthreads();  // all have read the tiles before
    load_tile(call.qkv + call.qkv_at(batch, key_begin, call.num_heads + kv_head), call.qkv_stride(),
              call.sequence - key_begin, kRows, call.head_dim, call.vector, k, call.stride);
    load_tile(call.qkv + call.qkv_at(batch, key_begin, call.num_heads + call.num_kv_heads + kv_head), call.qkv_stride(),
              call.sequence - key_begin, kRows, call.head_dim, call.vector, v, call.stride);
    __syncthreads();
    float score[R][R];
    multiply_rows<R>(q, k, call.stride, depth, score);
#pragma unroll
    for (int i = 0; i < R; ++i) {
      const int t = begin + R * lane_y() + i;
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const int key = key_begin + lane_x() + kSide * j;
        score[i][j] = key >= start[i] && key <= t ? score[i][j] * call.scale : -INFINITY;
        largest = fmaxf(largest, score[i][j]);
      }
      largest = fmaxf(max[i], row_max(largest));
      const float base = largest == -INFINITY ? 0.0f : largest;  // no key of this row so far
      const float factor = expf(max[i] - base);
      max[i] = largest;
      sum[i] *= factor;
      out.scale(i, factor);
#pragma unroll
      for (int j = 0; j < R; ++j) {
        score[i][j] = expf(score[i][j] - base);
        sum[i] += score[i][j];
      }
    }
    // The lanes that write a row of the square are those that read it, all of one warp.
    store_square<R>(score, square, kSquare);
    __syncwarp();
    out.add_product(square, kSquare, v, call.stride, depth);
  }

#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + R * lane_y() + i;
    const float total = row_sum(sum[i]);
    if (t >= call.sequence) continue;
    out.store_row(i, 1.0f / total, call.written + call.out_at(batch, t, head), call.head_dim, call.vector);
    if (lane_x() == 0) call.lse[call.statistic_at(batch, t, head)] = max[i] + logf(total);
  }
}

// delta = Σ_d dout·out, one warp for a row of a head.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads) delta_kernel(Call<T> call, int64_t count, float* delta) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kAttentionThreads / kWarp) + threadIdx.x / kWarp;
  if (item >= count) return;  // whole warps
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = item / call.num_heads;
  const int head = static_cast<int>(item % call.num_heads);
  const int64_t at = row * call.out_stride() + static_cast<int64_t>(head) * call.head_dim;
  float sum = 0.0f;
  for (int d = lane; d < call.head_dim; d += kWarp) {
    sum = fmaf(math::load(call.out + at + d), math::load(call.dout + at + d), sum);
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  if (lane != 0) return;
  const int batch = static_cast<int>(row / call.sequence);
  const int t = static_cast<int>(row % call.sequence);
  delta[call.statistic_at(batch, t, head)] = sum;
}

// A block makes the gradient of kRows queries of one head.
template <class T, int R, int kChunks>
__global__ void __launch_bounds__(kAttentionThreads) query_gradient_kernel(Call<T> call) {
  constexpr int kRows = R * kSide;
  constexpr int kSquare = kRows + kPad;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int batch = static_cast<int>(blockIdx.z);
  const int kv_head = head / (call.num_heads / call.num_kv_heads);
  const int begin = tile * kRows;
  const int depth = call.padded_dim();
  float* const q = dynamic_shared<float>();
  float* const dout = q + kRows * call.stride;
  float* const k = dout + kRows * call.stride;
  float* const v = k + kRows * call.stride;
  float* const square = v + kRows * call.stride;

  load_tile(call.qkv + call.qkv_at(batch, begin, head), call.qkv_stride(), call.sequence - begin, kRows, call.head_dim,
            call.vector, q, call.stride);
  load_tile(call.dout + call.out_at(batch, begin, head), call.out_stride(), call.sequence - begin, kRows, call.head_dim,
            call.vector, dout, call.stride);
  float lse[R];
  float delta[R];
  int start[R];
  Wide<R, kChunks> dq;
  dq.clear();
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + R * lane_y() + i;
    const bool valid = t < call.sequence;
    start[i] = valid ? call.first_key(batch, t) : call.sequence;
    lse[i] = valid ? call.lse[call.statistic_at(batch, t, head)] : 0.0f;
    delta[i] = valid ? call.delta[call.statistic_at(batch, t, head)] : 0.0f;
  }

  for (int other = call.first_key(batch, begin) / kRows; other <= tile; ++other) {
    const int key_begin = other * kRows;
    __syncthreads();
    load_tile(call.qkv + call.qkv_at(batch, key_begin, call.num_heads + kv_head), call.qkv_stride(),
              call.sequence - key_begin, kRows, call.head_dim, call.vector, k, call.stride);
    load_tile(call.qkv + call.qkv_at(batch, key_begin, call.num_heads + call.num_kv_heads + kv_head), call.qkv_stride(),
              call.sequence - key_begin, kRows, call.head_dim, call.vector, v, call.stride);
    __syncthreads();
    float score[R][R];
    float slope[R][R];
    multiply_rows<R>(q, k, call.stride, depth, score);
    multiply_rows<R>(dout, v, call.stride, depth, slope);
#pragma unroll
    for (int i = 0; i < R; ++i) {
      const int t = begin + R * lane_y() + i;
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const int key = key_begin + lane_x() + kSide * j;
        const bool visible = key >= start[i] && key <= t;
        const float p = expf(score[i][j] * call.scale - lse[i]);
        slope[i][j] = visible ? p * (slope[i][j] - delta[i]) : 0.0f;
      }
    }
    store_square<R>(slope, square, kSquare);
    __syncwarp();
    dq.add_product(square, kSquare, k, call.stride, depth);
  }

#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + R * lane_y() + i;
    if (t >= call.sequence) continue;
    dq.store_row(i, call.scale, call.written + call.qkv_at(batch, t, head), call.head_dim, call.vector);
  }
}

// A block makes the gradients of kRows keys and values of one key head: over the query heads that read it, and the tiles
// of queries that see it, in ascending order.
template <class T, int R, int kChunks>
__global__ void __launch_bounds__(kAttentionThreads) key_gradient_kernel(Call<T> call) {
  constexpr int kRows = R * kSide;
  constexpr int kSquare = kRows + kPad;
  const int tile = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int batch = static_cast<int>(blockIdx.z);
  const int group = call.num_heads / call.num_kv_heads;
  const int begin = tile * kRows;
  const int depth = call.padded_dim();
  const int last_key = begin + kRows - 1;
  float* const k = dynamic_shared<float>();
  float* const v = k + kRows * call.stride;
  float* const q = v + kRows * call.stride;
  float* const dout = q + kRows * call.stride;
  float* const square = dout + kRows * call.stride;
  float* const lse = square + kRows * kSquare;  // of the queries
  float* const delta = lse + kRows;
  int* const start = reinterpret_cast<int*>(delta + kRows);

  load_tile(call.qkv + call.qkv_at(batch, begin, call.num_heads + kv_head), call.qkv_stride(), call.sequence - begin,
            kRows, call.head_dim, call.vector, k, call.stride);
  load_tile(call.qkv + call.qkv_at(batch, begin, call.num_heads + call.num_kv_heads + kv_head), call.qkv_stride(),
            call.sequence - begin, kRows, call.head_dim, call.vector, v, call.stride);
  Wide<R, kChunks> dk;
  Wide<R, kChunks> dv;
  dk.clear();
  dv.clear();

  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int query_begin = begin; query_begin < call.sequence; query_begin += kRows) {
      if (call.first_key(batch, query_begin) > last_key) break;  // nor do later queries see these keys
      __syncthreads();
      load_tile(call.qkv + call.qkv_at(batch, query_begin, head), call.qkv_stride(), call.sequence - query_begin, kRows,
                call.head_dim, call.vector, q, call.stride);
      load_tile(call.dout + call.out_at(batch, query_begin, head), call.out_stride(), call.sequence - query_begin,
                kRows, call.head_dim, call.vector, dout, call.stride);
      if (threadIdx.x < kRows) {
        const int t = query_begin + static_cast<int>(threadIdx.x);
        const bool valid = t < call.sequence;
        lse[threadIdx.x] = valid ? call.lse[call.statistic_at(batch, t, head)] : 0.0f;
        delta[threadIdx.x] = valid ? call.delta[call.statistic_at(batch, t, head)] : 0.0f;
        start[threadIdx.x] = valid ? call.first_key(batch, t) : call.sequence;
      }
      __syncthreads();
      float p[R][R];  // of keys and queries
      multiply_rows<R>(k, q, call.stride, depth, p);
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const int column = lane_x() + kSide * j;
#pragma unroll
        for (int i = 0; i < R; ++i) {
          const int key = begin + R * lane_y() + i;
          const bool visible = key >= start[column] && key <= query_begin + column;
          p[i][j] = visible ? expf(p[i][j] * call.scale - lse[column]) : 0.0f;
        }
      }
      store_square<R>(p, square, kSquare);
      __syncwarp();
      dv.add_product(square, kSquare, dout, call.stride, depth);
      float slope[R][R];
      multiply_rows<R>(v, dout, call.stride, depth, slope);
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const float d = delta[lane_x() + kSide * j];
#pragma unroll
        for (int i = 0; i < R; ++i) slope[i][j] = p[i][j] * (slope[i][j] - d);
      }
      __syncwarp();  // all have read the square
      store_square<R>(slope, square, kSquare);
      __syncwarp();
      dk.add_product(square, kSquare, q, call.stride, depth);
    }
  }

#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + R * lane_y() + i;
    if (t >= call.sequence) continue;
    const int head = call.num_heads + kv_head;
    dk.store_row(i, call.scale, call.written + call.qkv_at(batch, t, head), call.head_dim, call.vector);
    dv.store_row(i, 1.0f, call.written + call.qkv_at(batch, t, head + call.num_kv_heads), call.head_dim, call.vector);
  }
}

template <class T>
Call<T> make_call(const ops::AttentionShape& shape, const Tensor& qkv, const Tensor& document_start, Tensor& lse) {
  TRIREME_CHECK(shape.sequence <= INT32_MAX / 2 && shape.batch <= 65535 && shape.num_heads <= 65535);
  if (shape.head_dim > kMaxHeadDim) {
    throw ConfigError({.what = "attention on a GPU takes heads of up to " + std::to_string(kMaxHeadDim) + " elements",
                       .found = std::to_string(shape.head_dim)});
  }
  Call<T> call = {};
  call.qkv = qkv.data<T>();
  call.document_start = document_start.defined() ? document_start.data<int32_t>() : nullptr;
  call.lse = lse.data<float>();
  call.sequence = static_cast<int>(shape.sequence);
  call.num_heads = static_cast<int>(shape.num_heads);
  call.num_kv_heads = static_cast<int>(shape.num_kv_heads);
  call.head_dim = static_cast<int>(shape.head_dim);
  call.scale = shape.scale;
  call.stride = static_cast<int>(ceil_div(shape.head_dim, 4)) * 4 + kPad;
  return call;
}

int64_t shared_bytes(int64_t num_tiles, int64_t rows, int64_t stride, int64_t num_statistics) {
  return (num_tiles * rows * stride + rows * (rows + kPad) + num_statistics * rows) * 4;
}

// Calls f.template operator()<R, kChunks>() with the tiles for a head dim, smaller ones where the backward pass would need
// more shared memory than there is.
template <class F>
void with_tiles(Stream& stream, int64_t head_dim, int stride, F&& f) {
  const auto fits = [&](int64_t rows) { return shared_bytes(4, rows, stride, 3) <= most_shared_bytes(stream); };
  if (head_dim <= 64) return f.template operator()<4, 1>();
  if (head_dim <= 128) return fits(4 * kSide) ? f.template operator()<4, 2>() : f.template operator()<2, 2>();
  return fits(2 * kSide) ? f.template operator()<2, 4>() : f.template operator()<1, 4>();
}

template <class T>
bool vector_access(int64_t head_dim, std::initializer_list<const T*> pointers) {
  bool possible = head_dim % kVector<T> == 0;
  for (const T* p : pointers) possible = possible && is_aligned<kVector<T>>(p);
  return possible;
}

template <class T>
void forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
             Tensor& out, Tensor& lse) {
  Call<T> call = make_call<T>(shape, qkv, document_start, lse);
  call.written = out.data<T>();
  call.vector = vector_access<T>(shape.head_dim, {call.qkv, call.written});
  with_tiles(stream, shape.head_dim, call.stride, [&]<int R, int kChunks>() {
    constexpr int64_t kRows = R * kSide;
    const dim3 grid(grid_size(ceil_div(shape.sequence, kRows)), grid_size(shape.num_heads), grid_size(shape.batch));
    launch(stream, grid, kAttentionThreads, shared_bytes(3, kRows, call.stride, 0), forward_kernel<T, R, kChunks>,
           call);
  });
}

template <class T>
void backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
              const Tensor& out, const Tensor& lse, const Tensor& dout, Tensor& dqkv) {
  Tensor statistics = lse;
  Call<T> call = make_call<T>(shape, qkv, document_start, statistics);
  const Tensor delta = Tensor::empty(stream, lse.shape(), DType::f32, MemoryTag::workspace);
  call.out = out.data<T>();
  call.dout = dout.data<T>();
  call.delta = delta.data<float>();
  call.written = dqkv.data<T>();
  call.vector = vector_access<T>(shape.head_dim, {call.qkv, call.dout, call.written});
  const int64_t count = delta.numel();
  launch(stream, grid_size(ceil_div(count, kAttentionThreads / kWarp)), kAttentionThreads, 0, delta_kernel<T>, call,
         count, delta.data<float>());
  with_tiles(stream, shape.head_dim, call.stride, [&]<int R, int kChunks>() {
    constexpr int64_t kRows = R * kSide;
    const unsigned tiles = grid_size(ceil_div(shape.sequence, kRows));
    launch(stream, dim3(tiles, grid_size(shape.num_heads), grid_size(shape.batch)), kAttentionThreads,
           shared_bytes(4, kRows, call.stride, 0), query_gradient_kernel<T, R, kChunks>, call);
    launch(stream, dim3(tiles, grid_size(shape.num_kv_heads), grid_size(shape.batch)), kAttentionThreads,
           shared_bytes(4, kRows, call.stride, 3), key_gradient_kernel<T, R, kChunks>, call);
  });
}

}  // namespace

void plain_attention_forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                             const Tensor& document_start, Tensor& out, Tensor& lse) {
  if (qkv.dtype() == DType::bf16) return forward<bf16>(stream, shape, qkv, document_start, out, lse);
  forward<float>(stream, shape, qkv, document_start, out, lse);
}

void plain_attention_backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                              const Tensor& document_start, const Tensor& out, const Tensor& lse, const Tensor& dout,
                              Tensor& dqkv) {
  if (qkv.dtype() == DType::bf16) return backward<bf16>(stream, shape, qkv, document_start, out, lse, dout, dqkv);
  backward<float>(stream, shape, qkv, document_start, out, lse, dout, dqkv);
}

}  // namespace trireme::cuda
