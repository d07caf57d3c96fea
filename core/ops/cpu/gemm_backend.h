// Which library multiplies a rectangle, and the calls into each of them. Used by gemm.cc, tests and benchmarks.
//
// The rule looks at the CPU's features and the element types only, never at a clock: what a run computes must not
// depend on a timing. The table that it was made from, GFLOP/s of 2 cores unless said otherwise:
//
//   CPU (fp32 peak)                       type  oneDNN 2.6.3   OpenBLAS 0.3.21  BLIS 0.9   rule
//   Sapphire Rapids, 2048^3               fp32  224            135              131        oneDNN
//                                         bf16  1220-1480      -                -          oneDNN (AMX)
//   Zen 4 (228), linear layers of GPT-2   fp32  202-214        178-204          130-210    oneDNN
//     and Llama, forward and backward     bf16  360-440        -                -          oneDNN (AVX-512 BF16)
//   Zen 3, 2048^3                         fp32  106            132              128        OpenBLAS
//                                         bf16  (no hardware)                              widen, then OpenBLAS
//
// `widen` converts panels of bf16 to fp32 and multiplies those; it serves CPUs without bf16 instructions and the
// rare fp32 product whose result is bf16.
// Thread safety: every function may be called from any thread; none starts a thread.
#pragma once

#include <cstdint>

#include "core/device/cpu_features.h"
#include "core/ops/cpu/gemm.h"

namespace trireme::cpu {

enum class GemmBackend : uint8_t {
  openblas,       // cblas_sgemm; fp32 only
  onednn_sgemm,   // dnnl_sgemm; fp32 only
  onednn_matmul,  // a oneDNN primitive made once per shape and thread; bf16 inputs
  widen,          // any types
};

const char* gemm_backend_name(GemmBackend backend);
GemmBackend choose_gemm_backend(const CpuFeatures& features, DType inputs, DType output);

// The fp32 library for this CPU: what `widen` multiplies its panels with.
GemmBackend choose_sgemm_backend(const CpuFeatures& features);

// gemm_serial with a given backend. REQUIRES: one that takes these types.
void gemm_serial_with(GemmBackend backend, const GemmArgs& args);

// The backends; all REQUIRE checked arguments and m, n, k >= 1.
void gemm_openblas(const GemmArgs& args);
void gemm_onednn_sgemm(const GemmArgs& args);
void gemm_onednn_matmul(const GemmArgs& args);
void gemm_widen(GemmBackend sgemm, const GemmArgs& args);

// The element (row, col) of op(X), as an address.
const void* element_of(const MatrixRef& x, int64_t row, int64_t col);

// A block of fp32 scratch memory that belongs to the calling thread, 64-byte aligned, of at least `num_floats`;
// each `slot` is a memory of its own. Grows to the largest request and stays.
float* thread_scratch(int slot, int64_t num_floats);

}  // namespace trireme::cpu
