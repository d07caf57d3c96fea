// Attention for AVX-512. Everything after the pragma is compiled for it, so headers of others come before.
#include <immintrin.h>
#include <math.h>

#include <array>
#include <cstddef>
#include <cstdint>

#pragma GCC target("arch=x86-64-v4")
// GCC 12 warns about its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "core/ops/cpu/attention_passes.h"
#include "core/ops/cpu/simd_avx512.h"

namespace trireme::cpu {

constinit const AttentionKernels kAttentionAvx512F32 =
    attention_kernels<FloatEngine<SimdAvx512, float>>("avx512 f32", AttentionIsa::avx512);
constinit const AttentionKernels kAttentionAvx512Bf16 =
    attention_kernels<FloatEngine<SimdAvx512, uint16_t>>("avx512 bf16 as f32", AttentionIsa::avx512);

}  // namespace trireme::cpu
