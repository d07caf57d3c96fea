#include "core/device/cpu_features.h"

#include <cpuid.h>
#include <immintrin.h>

#include <cstdint>

namespace trireme {

namespace {

// The compiler's own test knows AVX-512 but, in the oldest compiler that we support, not AMX: CPUID leaf 7 says
// what the processor has, XCR0 what the operating system saves on a switch of threads.
__attribute__((target("xsave"))) CpuFeatures detect() {
  CpuFeatures found;
  found.avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  found.avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                 __builtin_cpu_supports("avx512cd") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
                 __builtin_cpu_supports("avx512vl") != 0;
  if (!found.avx512) return found;  // then the operating system may not even have XGETBV switched on

  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return found;
  const unsigned num_subleaves = eax;
  const bool has_amx_tile = (edx >> 24 & 1u) != 0;
  const bool has_amx_bf16 = (edx >> 22 & 1u) != 0;
  constexpr uint64_t kTileState = 3u << 17;  // XTILECFG and XTILEDATA
  const uint64_t saved = _xgetbv(0);
  found.amx_bf16 = has_amx_tile && has_amx_bf16 && (saved & kTileState) == kTileState;

  if (num_subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
    found.avx512_bf16 = (eax >> 5 & 1u) != 0;
  }
  return found;
}

}  // namespace

std::string CpuFeatures::str() const {
  std::string text;
  const auto add = [&](bool has, const char* name) {
    if (!has) return;
    if (!text.empty()) text += ' ';
    text += name;
  };
  add(avx2, "avx2");
  add(avx512, "avx512");
  add(avx512_bf16, "avx512_bf16");
  add(amx_bf16, "amx_bf16");
  return text;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace trireme
