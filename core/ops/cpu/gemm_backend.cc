#include "core/ops/cpu/gemm_backend.h"

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/error.h"

namespace trireme::cpu {

namespace {

// Small enough for `tile` to be the fastest: beyond it, packing both operands pays.
bool fits_gemm_tile(const GemmArgs& args) {
  constexpr int64_t kLargest = 256;
  return args.m <= kLargest && args.n <= kLargest && args.k <= kLargest;
}

}  // namespace

const char* gemm_backend_name(GemmBackend backend) {
  switch (backend) {
    case GemmBackend::tile: return "own fp32 tile kernel";
    case GemmBackend::openblas: return "OpenBLAS sgemm";
    case GemmBackend::onednn_sgemm: return "oneDNN sgemm";
    case GemmBackend::avx512_bf16: return "own AVX-512 BF16 kernel";
    case GemmBackend::onednn_matmul: return "oneDNN matmul";
    case GemmBackend::widen: return "widen to fp32";
  }
  return "?";
}

GemmBackend choose_gemm_backend(const CpuFeatures& features, const GemmArgs& args) {
  const bool to_f32 = args.c.dtype == DType::f32;
  if (args.a.dtype == DType::bf16) {
    if (!features.has_fast_bf16()) return GemmBackend::widen;
    return features.amx_bf16 ? GemmBackend::onednn_matmul : GemmBackend::avx512_bf16;
  }
  if (!to_f32) return GemmBackend::widen;
  if (!features.avx512) return openblas_config().empty() ? GemmBackend::onednn_sgemm : GemmBackend::openblas;
  return fits_gemm_tile(args) ? GemmBackend::tile : GemmBackend::onednn_sgemm;
}

void gemm_serial_with(GemmBackend backend, const GemmArgs& args) {
  const bool is_f32 = args.a.dtype == DType::f32 && args.c.dtype == DType::f32;
  switch (backend) {
    case GemmBackend::tile: TRIREME_CHECK(is_f32); return gemm_tile_f32(args);
    case GemmBackend::openblas: TRIREME_CHECK(is_f32); return gemm_openblas(args);
    case GemmBackend::onednn_sgemm: TRIREME_CHECK(is_f32); return gemm_onednn_sgemm(args);
    case GemmBackend::avx512_bf16: TRIREME_CHECK(args.a.dtype == DType::bf16); return gemm_avx512_bf16(args);
    case GemmBackend::onednn_matmul: return gemm_onednn_matmul(args);
    case GemmBackend::widen: return gemm_widen(args);
  }
}

namespace {

constexpr size_t kScratchAlign = 64;

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

struct Scratch {
  std::unique_ptr<float, Free> memory;
  int64_t num_floats = 0;
};

}  // namespace

float* thread_scratch(int slot, int64_t num_floats) {
  thread_local std::array<Scratch, 4> slots;
  Scratch& scratch = slots.at(static_cast<size_t>(slot));
  if (num_floats > scratch.num_floats) {
    const size_t bytes = static_cast<size_t>(num_floats) * sizeof(float);
    scratch.memory.reset();
    scratch.num_floats = 0;
    void* memory = std::aligned_alloc(kScratchAlign, (bytes + kScratchAlign - 1) / kScratchAlign * kScratchAlign);
    if (memory == nullptr) throw std::bad_alloc();
    scratch.memory.reset(static_cast<float*>(memory));
    scratch.num_floats = num_floats;
  }
  return scratch.memory.get();
}

}  // namespace trireme::cpu
