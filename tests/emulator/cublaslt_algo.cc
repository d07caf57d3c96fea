// Which algorithms the emulated cuBLASLt offers, and what they ask of a call.
#include "tests/emulator/cublaslt_problem.h"

namespace emulator {

namespace {

constexpr uint64_t kAlgoMagic = 0x656d756c61746564ULL;
constexpr uint64_t kSplitBytes = 4096;  // workspace of the first algorithm
constexpr uint64_t kWideAlignment = 16;

// The kernel that a product needs, apart from sizes.
uint64_t fingerprint(const Matmul& x) {
  uint64_t h = 1469598103934665603ULL;
  for (const int64_t part : {int64_t{x.desc.compute_type}, int64_t{x.desc.epilogue}, int64_t{x.desc.transpose_a},
                             int64_t{x.desc.transpose_b}, int64_t{x.a.type}, int64_t{x.d.type}, int64_t{x.a.order},
                             int64_t{x.b.order}, int64_t{x.d.order}}) {
    h = (h ^ static_cast<uint64_t>(part)) * 1099511628211ULL;
  }
  return h;
}

bool is_aligned(const void* pointer, uint64_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

// Whether every column (row) of the matrix starts as aligned as its first element.
bool ld_is_wide(const MatrixLayout& layout) {
  return static_cast<uint64_t>(layout.ld * layout.element_bytes()) % kWideAlignment == 0;
}

bool can_be_wide(const Matmul& x, const MatmulPreference& preference) {
  for (const uint32_t alignment : preference.alignment) {
    if (alignment < kWideAlignment) return false;
  }
  return ld_is_wide(x.a) && ld_is_wide(x.b) && ld_is_wide(x.c) && ld_is_wide(x.d) &&
         is_aligned(x.desc.bias, kWideAlignment) && is_aligned(x.desc.aux, kWideAlignment);
}

}  // namespace

std::vector<Algo> candidates(const Matmul& x, const MatmulPreference& preference) {
  std::vector<Algo> found;
  const auto add = [&](uint64_t id, uint64_t workspace_bytes, uint64_t alignment) {
    found.push_back({.magic = kAlgoMagic,
                     .id = id,
                     .workspace_bytes = workspace_bytes,
                     .alignment = alignment,
                     .problem = fingerprint(x)});
  };
  const bool wide = can_be_wide(x, preference);
  const bool may_split = (preference.reduction_schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) != 0;
  if (wide && may_split && preference.max_workspace_bytes >= kSplitBytes) add(1, kSplitBytes, kWideAlignment);
  if (wide) add(2, 0, kWideAlignment);
  add(3, 0, static_cast<uint64_t>(x.a.element_bytes()));
  return found;
}

Verdict check_call(const Matmul& x, const MatmulPointers& p, const Algo& algo, const void* workspace,
                   size_t workspace_bytes) {
  const auto invalid = [](const char* reason) { return Verdict{CUBLAS_STATUS_INVALID_VALUE, reason}; };
  if (p.a == nullptr || p.b == nullptr || p.d == nullptr) return invalid("an operand is null");
  if (p.beta != 0 && p.c == nullptr) return invalid("C is null");
  if (p.c == p.d && (x.c.ld != x.d.ld)) return invalid("C and D are one matrix of two leading dimensions");
  if ((x.desc.reads_bias() || x.desc.writes_bias()) && x.desc.bias == nullptr) return invalid("bias is null");
  if (x.desc.uses_aux() && x.desc.aux == nullptr) return invalid("aux is null");
  if (algo.magic != kAlgoMagic) return invalid("this is no algorithm");
  if (algo.problem != fingerprint(x)) return {CUBLAS_STATUS_NOT_SUPPORTED, "the algorithm is one for another product"};
  if (workspace_bytes < algo.workspace_bytes || (algo.workspace_bytes > 0 && workspace == nullptr)) {
    return invalid("the workspace is too small for the algorithm");
  }
  for (const void* pointer : {p.a, p.b, p.c, static_cast<const void*>(p.d), static_cast<const void*>(x.desc.bias),
                              static_cast<const void*>(x.desc.aux)}) {
    if (!is_aligned(pointer, algo.alignment)) return invalid("a pointer is less aligned than the algorithm needs");
  }
  if (algo.alignment >= kWideAlignment && !(ld_is_wide(x.a) && ld_is_wide(x.b) && ld_is_wide(x.c) && ld_is_wide(x.d))) {
    return invalid("a leading dimension is less aligned than the algorithm needs");
  }
  return {};
}

}  // namespace emulator
