// Which library multiplies a rectangle, and the calls into each of them. Used by gemm.cc, tests and benchmarks.
//
// The rule looks at the CPU's features, the element types and whether OpenBLAS is installed, never at a clock: what a
// run computes must not depend on a timing. The table that it was made from, GFLOP/s (oneDNN 2.6.3, OpenBLAS 0.3.21, BLIS 0.9):
//
//   Sapphire Rapids, 2 threads, 2048^3
//     fp32                   dnnl_sgemm 224       OpenBLAS 135    BLIS 131                    -> onednn_sgemm
//     bf16                   matmul 1220-1480 (AMX)                                           -> onednn_matmul
//   Zen 4, 1 thread, linear layers of GPT-2 124M and of a small Llama, both directions
//     fp32 (peak 114)        dnnl_sgemm 98-112    OpenBLAS 87-100  BLIS 63-105  matmul 86-110 -> onednn_sgemm
//   Zen 4, 1 thread, tiles of 64x64x64 with long rows (A·B, A·Bᵀ)
//     fp32                   tile 111, 107        dnnl_sgemm 99, 76   OpenBLAS 112, 83        -> tile
//   Zen 5, 1 thread, the same layers, operands not in the caches
//     bf16 (peak 530)        ours 488-533         matmul 384-515                              -> avx512_bf16
//     weight gradients bf16  ours 460-512         matmul 386-426   dnnl_gemm_bf16bf16f32 404-489
//     tiles of 64x64x64      ours 350-407         matmul 241       dnnl_gemm_bf16bf16f32 333
//   Zen 3, 2 threads, 2048^3
//     fp32                   dnnl_sgemm 106       OpenBLAS 132     BLIS 128                   -> openblas
//     bf16                   no hardware                                                      -> widen
//
// Our `tile` kernel loses to oneDNN by a tenth beyond 256x256x256, where packing A pays. `widen` converts panels
// of bf16 to fp32 and multiplies those; it serves CPUs without bf16 instructions and the rare fp32 product whose
// result is bf16.
// Thread safety: every function may be called from any thread; none starts a thread.
#pragma once

#include <cstdint>
#include <string>

#include "core/device/cpu_features.h"
#include "core/ops/cpu/gemm.h"

namespace trireme::cpu {

enum class GemmBackend : uint8_t {
  tile,           // our own kernel for small fp32 products; AVX-512
  openblas,       // cblas_sgemm; fp32 only
  onednn_sgemm,   // dnnl_sgemm; fp32 only
  avx512_bf16,    // our own kernel for bf16 inputs; AVX-512 BF16
  onednn_matmul,  // a oneDNN primitive, made once per shape and thread; bf16 inputs
  widen,          // any types
};

const char* gemm_backend_name(GemmBackend backend);
GemmBackend choose_gemm_backend(const CpuFeatures& features, const GemmArgs& args);

// gemm_serial with a given backend. REQUIRES: one that takes these types.
void gemm_serial_with(GemmBackend backend, const GemmArgs& args);

// The backends; all REQUIRE checked arguments and m, n, k >= 1.
void gemm_tile_f32(const GemmArgs& args);
void gemm_openblas(const GemmArgs& args);  // REQUIRES: openblas_config() says something
void gemm_onednn_sgemm(const GemmArgs& args);
void gemm_onednn_matmul(const GemmArgs& args);
void gemm_avx512_bf16(const GemmArgs& args);
void gemm_widen(const GemmArgs& args);

// What OpenBLAS says of its build; empty where none is installed that several threads may call at once.
std::string openblas_config();

// The element (row, col) of op(X), as an address.
const void* element_of(const MatrixRef& x, int64_t row, int64_t col);

// Throws BugError when `args` contradict each other. What `gemm` and its kin compute once they are checked.
void check_gemm(const GemmArgs& args);
void multiply_checked(const GemmArgs& args);

// The product of rows [row, row + rows) of A and columns [col, col + cols) of B.
GemmArgs rectangle_of(const GemmArgs& args, int64_t row, int64_t rows, int64_t col, int64_t cols);

// A block of fp32 scratch memory that belongs to the calling thread, 64-byte aligned, of at least `num_floats`;
// each `slot` is a memory of its own. Grows to the largest request and stays.
float* thread_scratch(int slot, int64_t num_floats);

}  // namespace trireme::cpu
