// Attention for AVX2 and FMA, which every supported processor has.
#include "core/ops/cpu/attention_passes.h"
#include "core/ops/cpu/simd_avx2.h"

namespace trireme::cpu {

constinit const AttentionKernels kAttentionAvx2F32 =
    attention_kernels<FloatEngine<SimdAvx2, float>>("avx2 f32", AttentionIsa::avx2);
constinit const AttentionKernels kAttentionAvx2Bf16 =
    attention_kernels<FloatEngine<SimdAvx2, uint16_t>>("avx2 bf16 as f32", AttentionIsa::avx2);

}  // namespace trireme::cpu
