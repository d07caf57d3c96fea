// cuBLASLt on one stream: its handle, workspace and the plans made so far. A resource of the stream (cuda_stream.h).
#pragma once

#include <cublasLt.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/device/cuda/cuda_stream.h"
#include "core/ops/cuda/cublaslt_objects.h"
#include "core/ops/cuda/gemm.h"

namespace trireme::cuda {

// All that decides which algorithms can compute a product, and how fast they are.
struct GemmKind {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  bool a_transposed = false;
  bool b_transposed = false;
  DType in = DType::f32;
  DType out = DType::f32;
  bool accumulate = false;  // there is an addend
  Epilogue epilogue = Epilogue::none;
  std::array<int, 4> alignment{};  // of a, b, c, and of vector and aux, in bytes; at most 16

  bool operator==(const GemmKind&) const = default;
  std::string str() const;  // its name in records of choices
};

GemmKind kind_of(const GemmCall& call);

struct GemmKindHash {
  size_t operator()(const GemmKind& kind) const;
};

// None: the library has no algorithm for the product.
using GemmAlgorithm = std::optional<cublasLtMatmulAlgo_t>;

// What NVIDIA recommends for sm_90; algorithms that want more are not candidates.
inline constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;

class GemmLibrary {
 public:
  explicit GemmLibrary(CudaStream& stream);
  ~GemmLibrary();
  GemmLibrary(const GemmLibrary&) = delete;
  GemmLibrary& operator=(const GemmLibrary&) = delete;

  bool run(const GemmCall& call);
  bool run_fused(const GemmCall& fused, const GemmCall& plain, const std::function<void()>& rest);

  // What a product may use until the next one on the stream begins.
  const Tensor& workspace() const { return workspace_; }

  // Whom choices are good for: the library's version and the GPU.
  std::string version() const;
  std::string device() const;
  std::unordered_map<std::string, GemmAlgorithm> choices() const;
  void import(const std::unordered_map<std::string, GemmAlgorithm>& choices);

 private:
  // Of one call.
  struct Pointers {
    const void* a = nullptr;
    const void* b = nullptr;
    const void* c = nullptr;  // the addend
    void* d = nullptr;        // written; may be c
    void* vector = nullptr;
    void* aux = nullptr;
  };
  // What is made once for a kind.
  struct Plan {
    Operation operation;
    Layout a, b, c;
    bool accumulate = false;
    Epilogue epilogue = Epilogue::none;
    int64_t d_bytes = 0;
    GemmAlgorithm algorithm;

    void set_pointers(const Pointers& pointers) const;
  };

  static constexpr size_t kMaxUntimedPlans = 4096;

  static Pointers pointers_of(const GemmCall& call);
  bool run(const GemmKind& kind, const Pointers& pointers);
  bool run_untimed(const GemmKind& kind, const Pointers& pointers);
  bool capturing() const;
  Plan& find_plan(const GemmKind& kind, const Pointers& pointers);
  bool is_worth_fusing(const Plan& fused, const Pointers& fused_pointers, const Plan& plain,
                       const Pointers& plain_pointers, const std::function<void()>& rest);
  bool aside(const Plan& plan, const Pointers& pointers, Tensor& scratch, Pointers& target) const;
  std::unique_ptr<Plan> describe(const GemmKind& kind) const;
  std::vector<cublasLtMatmulAlgo_t> candidates(const GemmKind& kind, const Plan& plan) const;
  GemmAlgorithm choose(const GemmKind& kind, const Plan& plan, const Pointers& pointers);
  GemmAlgorithm fastest(const Plan& plan, const std::vector<cublasLtMatmulAlgo_t>& all, const Pointers& pointers);
  cublasStatus_t launch(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Pointers& pointers) const;

  CudaStream& stream_;
  cublasLtHandle_t handle_ = nullptr;
  Tensor workspace_;
  std::unordered_map<GemmKind, std::unique_ptr<Plan>, GemmKindHash> plans_;
  std::unordered_map<GemmKind, std::unique_ptr<Plan>, GemmKindHash> untimed_plans_;
  std::unordered_map<std::string, GemmAlgorithm> imported_;
};

}  // namespace trireme::cuda
