// Tiles of the attention kernels: rows of queries or keys in shared memory as fp32, and products of two of them.
//
// A block is 16 × 16 threads (ty, tx). A tile has kRows = 16·R rows. Of a product's result [kRows, kRows] a thread holds
// rows R·ty + i and columns tx + 16·j (i, j < R), so that 16 lanes side by side hold a row; of a result
// [kRows, head dim] it holds rows R·ty + i and columns 4·tx + 64·c + e (c < kChunks, e < 4).
// In shared memory a row is padded by 4 floats: 8 lanes that read 16 bytes each of 8 rows meet no bank twice.
// Include from .cu files only.
#pragma once

#include "core/device/cuda/launch.h"
#include "core/ops/cuda/vector.h"

namespace trireme::cuda {

inline constexpr int kAttentionThreads = 256;
inline constexpr int kSide = 16;  // lanes along each side of the block
inline constexpr int kPad = 4;

__device__ __forceinline__ int lane_x() { return static_cast<int>(threadIdx.x) % kSide; }
__device__ __forceinline__ int lane_y() { return static_cast<int>(threadIdx.x) / kSide; }

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ void store4(float* p, float4 values) { *reinterpret_cast<float4*>(p) = values; }

// `count` rows of `dim` elements at `src` to `rows` rows of fp32, zeros in what is left of them; `stride` between rows,
// padding included. `vector`: dim and src_stride are multiples of 16 bytes, src is aligned to that.
template <class T>
__device__ inline void load_tile(const T* src, int64_t src_stride, int count, int rows, int dim, bool vector,
                                 float* dst, int stride) {
  const int used = stride - kPad;
  if (vector) {
    constexpr int kN = kVector<T>;
    const int per_row = used / kN;
    for (int i = static_cast<int>(threadIdx.x); i < rows * per_row; i += kAttentionThreads) {
      const int row = i / per_row;
      const int column = i % per_row * kN;
      Floats<kN> values = {};
      if (row < count) values = load<kN>(src + row * src_stride + column);
#pragma unroll
      for (int e = 0; e < kN; e += 4) {
        store4(dst + row * stride + column + e,
               make_float4(values.x[e], values.x[e + 1], values.x[e + 2], values.x[e + 3]));
      }
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < rows * used; i += kAttentionThreads) {
      const int row = i / used;
      const int column = i % used;
      dst[row * stride + column] = row < count && column < dim ? math::load(src + row * src_stride + column) : 0.0f;
    }
  }
}

// product[i][j] = a[row i] · b[column j], over `depth` columns of both, a multiple of 4.
template <int R>
__device__ inline void multiply_rows(const float* a, const float* b, int stride, int depth, float (&product)[R][R]) {
#pragma unroll
  for (int i = 0; i < R; ++i) {
#pragma unroll
    for (int j = 0; j < R; ++j) product[i][j] = 0.0f;
  }
  const float* const a_row = a + R * lane_y() * stride;
  const float* const b_row = b + lane_x() * stride;
#pragma unroll 4
  for (int d = 0; d < depth; d += 4) {
    float4 left[R];
    float4 right[R];
#pragma unroll
    for (int i = 0; i < R; ++i) left[i] = load4(a_row + i * stride + d);
#pragma unroll
    for (int j = 0; j < R; ++j) right[j] = load4(b_row + kSide * j * stride + d);
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int j = 0; j < R; ++j) {
        float sum = fmaf(left[i].x, right[j].x, product[i][j]);
        sum = fmaf(left[i].y, right[j].y, sum);
        sum = fmaf(left[i].z, right[j].z, sum);
        product[i][j] = fmaf(left[i].w, right[j].w, sum);
      }
    }
  }
}

// The results that a thread holds of a product [kRows, kRows] to `tile`, rows `stride` apart.
template <int R>
__device__ inline void store_square(const float (&values)[R][R], float* tile, int stride) {
#pragma unroll
  for (int i = 0; i < R; ++i) {
#pragma unroll
    for (int j = 0; j < R; ++j) tile[(R * lane_y() + i) * stride + lane_x() + kSide * j] = values[i][j];
  }
}

// A thread's part of a result [kRows, head dim].
template <int R, int kChunks>
struct Wide {
  float4 sum[R][kChunks];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) sum[i][c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }
  __device__ void scale(int i, float factor) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      float4& s = sum[i][c];
      s = make_float4(s.x * factor, s.y * factor, s.z * factor, s.w * factor);
    }
  }

  // += square [kRows, kRows] · x [kRows, width], width a multiple of 4.
  __device__ void add_product(const float* square, int square_stride, const float* x, int stride, int width) {
    const float* const left_row = square + R * lane_y() * square_stride;
    for (int k = 0; k < R * kSide; k += 4) {
      float4 left[R];
#pragma unroll
      for (int i = 0; i < R; ++i) left[i] = load4(left_row + i * square_stride + k);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int column = 4 * lane_x() + 4 * kSide * c;
        if (column < width) {
          add_row<0>(left, load4(x + k * stride + column), c);
          add_row<1>(left, load4(x + (k + 1) * stride + column), c);
          add_row<2>(left, load4(x + (k + 2) * stride + column), c);
          add_row<3>(left, load4(x + (k + 3) * stride + column), c);
        }
      }
    }
  }

  // Row i times `factor` to `dst`, `dim` elements long. `vector`: as for load_tile.
  template <class T>
  __device__ void store_row(int i, float factor, T* dst, int dim, bool vector) const {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = 4 * lane_x() + 4 * kSide * c;
      const float4 s = sum[i][c];
      const Floats<4> values = {{s.x * factor, s.y * factor, s.z * factor, s.w * factor}};
      if (vector && column < dim) {
        store<4>(dst + column, values);
      } else {
        for (int e = 0; e < 4 && column + e < dim; ++e) math::store(dst + column + e, values.x[e]);
      }
    }
  }

 private:
  template <int kPart>
  __device__ __forceinline__ void add_row(const float4 (&left)[R], float4 right, int c) {
#pragma unroll
    for (int i = 0; i < R; ++i) {
      const float p = kPart == 0 ? left[i].x : kPart == 1 ? left[i].y : kPart == 2 ? left[i].z : left[i].w;
      float4& s = sum[i][c];
      s = make_float4(fmaf(p, right.x, s.x), fmaf(p, right.y, s.y), fmaf(p, right.z, s.z), fmaf(p, right.w, s.w));
    }
  }
};

}  // namespace trireme::cuda
