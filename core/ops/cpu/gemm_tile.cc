// Small fp32 products without a library: tiles of attention, whose matrices fit the first- and second-level cache.
// A library copies both operands into panels first, which for a 64x64x64 tile costs a third of the time; here A is
// read where it lies (an element at a time, broadcast), B too unless it is transposed, and C is touched once.
//
// The micro-kernel keeps R rows x 64 columns of C in registers (6 x 4 vectors of 16 floats, 4 more for a row of B):
// for each step of k one row of B meets R broadcast elements of A. AVX-512 only.
#include <immintrin.h>

#include <algorithm>
#include <array>

#include "core/ops/cpu/gemm_backend.h"

#pragma GCC target("arch=x86-64-v4")
// GCC 12 warns about its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "core/ops/cpu/simd_avx512.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kVector = 16;          // floats
constexpr int64_t kStrip = 4 * kVector;  // columns of C at a time
constexpr int64_t kRows = 6;             // rows of C at a time

// What one call of the micro-kernel works on.
struct Strip {
  const float* a;
  int64_t a_row_step, a_k_step;  // elements from one row, or one k, of op(A) to the next
  const float* b;                // [k, kStrip or fewer], not transposed
  int64_t b_ld;
  float* c;
  int64_t c_ld;
  int64_t k;
  float alpha, beta;
};

// C[R rows, V vectors] of a strip; `last` masks the valid columns of the last vector.
template <int R, int V>
void micro_kernel(const Strip& s, __mmask16 last) {
  __m512 sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const float* a = s.a;
  const float* b = s.b;
  for (int64_t k = 0; k < s.k; ++k) {
    __m512 row[V];
#pragma GCC unroll 4
    for (int v = 0; v + 1 < V; ++v) row[v] = _mm512_loadu_ps(b + v * kVector);
    row[V - 1] = _mm512_maskz_loadu_ps(last, b + (V - 1) * kVector);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 element = _mm512_set1_ps(a[r * s.a_row_step]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_fmadd_ps(element, row[v], sums[r][v]);
    }
    a += s.a_k_step;
    b += s.b_ld;
  }
  const __m512 alpha = _mm512_set1_ps(s.alpha);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* c = s.c + r * s.c_ld + v * kVector;
      const __mmask16 mask = v + 1 < V ? __mmask16{0xFFFF} : last;
      __m512 result = _mm512_mul_ps(alpha, sums[r][v]);
      if (s.beta != 0.0f) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, c));
      _mm512_mask_storeu_ps(c, mask, result);
    }
  }
}

template <int V>
void all_rows(Strip s, int64_t rows, __mmask16 last) {
  for (; rows >= kRows; rows -= kRows) {
    micro_kernel<kRows, V>(s, last);
    s.a += kRows * s.a_row_step;
    s.c += kRows * s.c_ld;
  }
  switch (rows) {
    case 1: return micro_kernel<1, V>(s, last);
    case 2: return micro_kernel<2, V>(s, last);
    case 3: return micro_kernel<3, V>(s, last);
    case 4: return micro_kernel<4, V>(s, last);
    case 5: return micro_kernel<5, V>(s, last);
    default: return;
  }
}

// to[k, kStrip] = the transpose of from[cols, k].
void transpose_strip(const float* from, int64_t from_ld, int64_t cols, int64_t depth, float* to) {
  for (int64_t j = 0; j < cols; j += 16) {
    for (int64_t k = 0; k < depth; k += 16) {
      if (j + 16 <= cols && k + 16 <= depth) {
        SimdAvx512::transpose16(from + j * from_ld + k, from_ld, to + k * kStrip + j, kStrip);
        continue;
      }
      for (int64_t row = j; row < std::min(j + 16, cols); ++row) {
        for (int64_t col = k; col < std::min(k + 16, depth); ++col) to[col * kStrip + row] = from[row * from_ld + col];
      }
    }
  }
}

}  // namespace

void gemm_tile_f32(const GemmArgs& args) {
  const bool a_transposed = args.a.transpose == Transpose::yes;
  const bool b_transposed = args.b.transpose == Transpose::yes;
  float* transposed = b_transposed ? thread_scratch(/*slot=*/0, args.k * kStrip) : nullptr;
  for (int64_t col = 0; col < args.n; col += kStrip) {
    const int64_t cols = std::min(kStrip, args.n - col);
    const auto* b = static_cast<const float*>(element_of(args.b, 0, col));
    if (b_transposed) transpose_strip(b, args.b.ld, cols, args.k, transposed);
    const Strip strip{.a = static_cast<const float*>(args.a.data),
                      .a_row_step = a_transposed ? 1 : args.a.ld,
                      .a_k_step = a_transposed ? args.a.ld : 1,
                      .b = b_transposed ? transposed : b,
                      .b_ld = b_transposed ? kStrip : args.b.ld,
                      .c = static_cast<float*>(args.c.data) + col,
                      .c_ld = args.c.ld,
                      .k = args.k,
                      .alpha = args.alpha,
                      .beta = args.beta};
    const int64_t num_vectors = (cols + kVector - 1) / kVector;
    const auto last = static_cast<__mmask16>(0xFFFFu >> (num_vectors * kVector - cols));
    switch (num_vectors) {
      case 1: all_rows<1>(strip, args.m, last); break;
      case 2: all_rows<2>(strip, args.m, last); break;
      case 3: all_rows<3>(strip, args.m, last); break;
      default: all_rows<4>(strip, args.m, last); break;
    }
  }
}

}  // namespace trireme::cpu
