// Which algorithm a product runs with: candidates of the library's heuristics, timed where there are several.
#include <algorithm>

#include "core/device/cuda/check.h"
#include "core/device/out_of_memory.h"
#include "core/ops/cuda/gemm_library.h"

namespace trireme::cuda {

namespace {

constexpr int kMaxCandidates = 8;
constexpr int kTimedRuns = 3;
// The library lists its best guess first. Another must be faster by more than the noise of so few runs.
constexpr double kWorthSwitching = 0.98;
// Multiplications from which on an epilogue is compared with a kernel of its own: some ten microseconds of work.
constexpr double kLarge = double{1 << 30};

}  // namespace

std::vector<cublasLtMatmulAlgo_t> GemmLibrary::candidates(const GemmKind& kind, const Plan& plan) const {
  Preference preference;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "describe which algorithms are wanted");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kGemmWorkspaceBytes));
  // Where k is cut, the parts lie side by side in fp32 and are added in order: the same bits every time, one rounding.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(kind.alignment[1]));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(kind.alignment[0]));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(kind.alignment[2]));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(kind.alignment[2]));
  std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> results{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.b, plan.a, plan.c, plan.c,
                                                               preference, kMaxCandidates, results.data(), &count);
  // These two say that it has no algorithm with that epilogue for those types, sizes or addresses.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  check_cublas(status, "find an algorithm for " + kind.str());
  std::vector<cublasLtMatmulAlgo_t> found;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[static_cast<size_t>(i)];
    if (result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > static_cast<size_t>(kGemmWorkspaceBytes))
      continue;
    found.push_back(result.algo);
  }
  return found;
}

// Where to write while timing: what a product overwrites it may overwrite more than once, but not its addend.
// False when there is no memory for that.
bool GemmLibrary::aside(const Plan& plan, const Pointers& pointers, Tensor& scratch, Pointers& target) const {
  target = pointers;
  if (!plan.accumulate || pointers.c != pointers.d) return true;
  try {
    scratch = Tensor::empty(stream_, {plan.d_bytes}, DType::u8, MemoryTag::workspace);
  } catch (const OutOfMemory&) {
    return false;
  }
  target.d = scratch.raw();
  return true;
}

// Runs every candidate on the call's own operands.
GemmAlgorithm GemmLibrary::fastest(const Plan& plan, const std::vector<cublasLtMatmulAlgo_t>& all,
                                   const Pointers& pointers) {
  Tensor scratch;
  Pointers target;
  if (!aside(plan, pointers, scratch, target)) return all.front();
  struct Times {
    size_t candidate;
    std::unique_ptr<Event> begin, end;
  };
  std::vector<Times> times;
  for (size_t i = 0; i < all.size(); ++i) {
    if (launch(plan, all[i], target) != CUBLAS_STATUS_SUCCESS) continue;  // also loads the kernel
    std::unique_ptr<Event> begin = stream_.record_time();
    for (int run = 0; run < kTimedRuns; ++run) check_cublas(launch(plan, all[i], target), "time an algorithm");
    times.push_back({i, std::move(begin), stream_.record_time()});
  }
  if (times.empty()) return {};
  stream_.synchronize();
  size_t best = times.front().candidate;
  double best_seconds = times.front().end->seconds_since(*times.front().begin);
  const double worth = best_seconds * kWorthSwitching;
  for (const Times& t : times) {
    const double seconds = t.end->seconds_since(*t.begin);
    if (seconds < std::min(worth, best_seconds)) {
      best = t.candidate;
      best_seconds = seconds;
    }
  }
  return all[best];
}

bool GemmLibrary::is_worth_fusing(const Plan& fused, const Pointers& fused_pointers, const Plan& plain,
                                  const Pointers& plain_pointers, const std::function<void()>& rest) {
  const auto seconds_of = [&](const Plan& plan, const Pointers& pointers, const std::function<void()>& then) {
    Tensor scratch;
    Pointers target;
    if (!aside(plan, pointers, scratch, target)) return 0.0;
    std::unique_ptr<Event> begin;
    for (int run = -1; run < kTimedRuns; ++run) {
      if (run == 0) begin = stream_.record_time();
      check_cublas(launch(plan, *plan.algorithm, target), "time an algorithm");
      then();
    }
    const std::unique_ptr<Event> end = stream_.record_time();
    stream_.synchronize();
    return end->seconds_since(*begin);
  };
  fused.set_pointers(fused_pointers);
  const double together = seconds_of(fused, fused_pointers, [] {});
  plain.set_pointers(plain_pointers);
  return together <= seconds_of(plain, plain_pointers, rest);
}

bool GemmLibrary::capturing() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_.handle(), &status), "ask whether a stream is being captured");
  return status != cudaStreamCaptureStatusNone;
}

GemmAlgorithm GemmLibrary::choose(const GemmKind& kind, const Plan& plan, const Pointers& pointers) {
  if (const auto recorded = imported_.find(kind.str()); recorded != imported_.end()) return recorded->second;
  const std::vector<cublasLtMatmulAlgo_t> all = candidates(kind, plan);
  if (all.empty()) return {};
  if (all.size() == 1 || capturing()) return all.front();
  return fastest(plan, all, pointers);
}

// The outcome is kept where other choices are: no algorithm for the fused product.
bool GemmLibrary::run_fused(const GemmCall& fused, const GemmCall& plain, const std::function<void()>& rest) {
  const GemmKind kind = kind_of(fused);
  const bool is_new = !plans_.contains(kind) && !imported_.contains(kind.str());
  const bool large = static_cast<double>(kind.m) * static_cast<double>(kind.n) * static_cast<double>(kind.k) >= kLarge;
  if (is_new && large && !capturing()) {
    stream_.activate();
    Plan& together = find_plan(kind, pointers_of(fused));
    const Plan& apart = find_plan(kind_of(plain), pointers_of(plain));
    const bool both = together.algorithm.has_value() && apart.algorithm.has_value();
    if (both && !is_worth_fusing(together, pointers_of(fused), apart, pointers_of(plain), rest)) {
      together.algorithm.reset();
    }
  }
  return run(fused);
}

}  // namespace trireme::cuda
