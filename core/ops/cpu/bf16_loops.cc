#include "core/ops/cpu/bf16_loops.h"

#include "core/device/cpu_features.h"

namespace trireme::cpu {

const Bf16Loops* bf16_loops() {
  const CpuFeatures& features = cpu_features();
  return features.avx512 && features.avx512_bf16 ? &kBf16LoopsAvx512 : nullptr;
}

}  // namespace trireme::cpu
