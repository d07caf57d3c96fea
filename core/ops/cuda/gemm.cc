#include "core/ops/cuda/gemm.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/device/cuda/check.h"
#include "core/ops/cuda/gemm_library.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

namespace {

// What NVIDIA recommends for sm_90; algorithms that want more are not candidates.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int kMaxCandidates = 8;
constexpr int kTimedRuns = 3;
// The library lists its best guess first. Another must be faster by more than the noise of so few runs.
constexpr double kWorthSwitching = 0.98;
constexpr int kMaxAlignment = 16;  // bytes: what the widest loads need

void check_cublas(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw MachineError({.what = "cuBLASLt failed to " + what,
                      .found = std::string(cublasLtGetStatusName(status)) + ": " + cublasLtGetStatusString(status)});
}

cudaDataType_t cuda_type(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

int alignment_of(const Tensor& tensor) {
  if (!tensor.defined()) return kMaxAlignment;
  const auto address = reinterpret_cast<uintptr_t>(tensor.raw());
  return address == 0 ? kMaxAlignment : std::min(kMaxAlignment, 1 << std::min(std::countr_zero(address), 8));
}

const char* epilogue_name(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::none: return "none";
    case Epilogue::bias: return "bias";
    case Epilogue::gelu: return "gelu";
    case Epilogue::gelu_bias: return "gelu_bias";
    case Epilogue::gelu_gradient: return "gelu_gradient";
    case Epilogue::row_sums: return "row_sums";
  }
  return "";
}

// The library sees all matrices column by column, that is transposed: it computes cᵀ = op(b)ᵀ·op(a)ᵀ, its first operand
// is our b and its second our a.
cublasLtEpilogue_t library_epilogue(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::none: return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::bias: return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::gelu: return CUBLASLT_EPILOGUE_GELU_AUX;
    case Epilogue::gelu_bias: return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::gelu_gradient: return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::row_sums: return CUBLASLT_EPILOGUE_BGRADB;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

bool has_vector(Epilogue e) { return e == Epilogue::bias || e == Epilogue::gelu_bias || e == Epilogue::row_sums; }
bool has_aux(Epilogue e) {
  return e == Epilogue::gelu || e == Epilogue::gelu_bias || e == Epilogue::gelu_gradient;
}

// A library object that is freed with its owner.
template <class T, cublasStatus_t (*destroy)(T)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (object_ != nullptr) destroy(object_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* operator&() { return &object_; }
  operator T() const { return object_; }

 private:
  T object_ = nullptr;
};

cublasStatus_t destroy_layout(cublasLtMatrixLayout_t layout) { return cublasLtMatrixLayoutDestroy(layout); }
cublasStatus_t destroy_operation(cublasLtMatmulDesc_t desc) { return cublasLtMatmulDescDestroy(desc); }
cublasStatus_t destroy_preference(cublasLtMatmulPreference_t p) { return cublasLtMatmulPreferenceDestroy(p); }
using Layout = Owned<cublasLtMatrixLayout_t, destroy_layout>;
using Operation = Owned<cublasLtMatmulDesc_t, destroy_operation>;
using Preference = Owned<cublasLtMatmulPreference_t, destroy_preference>;

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check_cublas(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "describe a product");
}

template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
               "describe which algorithms are wanted");
}

// A row-major [rows, columns].
void make_layout(Layout& layout, DType dtype, int64_t rows, int64_t columns) {
  check_cublas(cublasLtMatrixLayoutCreate(&layout, cuda_type(dtype), static_cast<uint64_t>(columns),
                                          static_cast<uint64_t>(rows), columns),
               "describe a matrix");
}

GemmKind kind_of(const GemmCall& call) {
  const Tensor& a = call.a.tensor;
  const Tensor& b = call.b.tensor;
  GemmKind kind{.m = call.c.dim(0), .n = call.c.dim(1), .k = a.dim(call.a.transposed ? 0 : 1)};
  kind.a_transposed = call.a.transposed;
  kind.b_transposed = call.b.transposed;
  TRIREME_CHECK(a.dim(call.a.transposed ? 1 : 0) == kind.m && b.dim(call.b.transposed ? 1 : 0) == kind.k &&
                    b.dim(call.b.transposed ? 0 : 1) == kind.n,
                "shapes of a product that don't fit");
  TRIREME_CHECK(a.dtype() == b.dtype() && (call.c.dtype() == a.dtype() || call.c.dtype() == DType::f32));
  TRIREME_CHECK(call.vector.defined() == has_vector(call.epilogue) && call.aux.defined() == has_aux(call.epilogue));
  kind.in = a.dtype();
  kind.out = call.c.dtype();
  kind.accumulate = call.accumulate;
  kind.epilogue = call.epilogue;
  kind.alignment = {alignment_of(a), alignment_of(b), alignment_of(call.c),
                    std::min(alignment_of(call.vector), alignment_of(call.aux))};
  return kind;
}

}  // namespace

struct GemmLibrary::Pointers {
  const void* a;
  const void* b;
  void* c;  // read with accumulate
  void* d;  // written; c, except while candidates are timed
  void* vector;
  void* aux;
};

struct GemmLibrary::Plan {
  Operation operation;
  Layout a, b, c;
  bool accumulate = false;
  Epilogue epilogue = Epilogue::none;
  int64_t d_bytes = 0;
  GemmAlgorithm algorithm;

  void set_pointers(const Pointers& pointers) const {
    if (has_vector(epilogue)) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointers.vector);
    if (has_aux(epilogue)) set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pointers.aux);
  }
};

std::string GemmKind::str() const {
  std::string text = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " ";
  text += a_transposed ? "t" : "n";
  text += b_transposed ? "t " : "n ";
  text += dtype_name(in) + " " + dtype_name(out) + (accumulate ? " added " : " set ") + epilogue_name(epilogue);
  for (const int bytes : alignment) text += " " + std::to_string(bytes);
  return text;
}

size_t GemmKindHash::operator()(const GemmKind& kind) const {
  uint64_t hash = static_cast<uint64_t>(kind.epilogue);
  const auto mix = [&](int64_t value) {
    hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  };
  for (const int64_t value : {kind.m, kind.n, kind.k}) mix(value);
  mix(kind.a_transposed + 2 * kind.b_transposed + 4 * kind.accumulate);
  mix(static_cast<int64_t>(kind.in) * 256 + static_cast<int64_t>(kind.out));
  for (const int bytes : kind.alignment) mix(bytes);
  return static_cast<size_t>(hash);
}

GemmLibrary::GemmLibrary(CudaStream& stream) : stream_(stream) {
  stream.activate();
  check_cublas(cublasLtCreate(&handle_), "start on " + stream.device().str());
  workspace_ = Tensor::empty(stream, {kWorkspaceBytes}, DType::u8, MemoryTag::workspace);
}

GemmLibrary::~GemmLibrary() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

std::unique_ptr<GemmLibrary::Plan> GemmLibrary::describe(const GemmKind& kind) const {
  auto plan = std::make_unique<Plan>();
  plan->accumulate = kind.accumulate;
  plan->epilogue = kind.epilogue;
  plan->d_bytes = kind.m * kind.n * dtype_bytes(kind.out);
  check_cublas(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
  const auto op = [](bool transposed) { return static_cast<int32_t>(transposed ? CUBLAS_OP_T : CUBLAS_OP_N); };
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, op(kind.b_transposed));
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, op(kind.a_transposed));
  set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(library_epilogue(kind.epilogue)));
  if (has_aux(kind.epilogue)) set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, kind.n);
  const auto layout = [&](Layout& to, bool transposed, int64_t rows, int64_t columns) {
    make_layout(to, kind.in, transposed ? columns : rows, transposed ? rows : columns);
  };
  layout(plan->a, kind.a_transposed, kind.m, kind.k);
  layout(plan->b, kind.b_transposed, kind.k, kind.n);
  make_layout(plan->c, kind.out, kind.m, kind.n);
  return plan;
}

std::vector<cublasLtMatmulAlgo_t> GemmLibrary::candidates(const GemmKind& kind, const Plan& plan) const {
  Preference preference;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "describe which algorithms are wanted");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  // Where k is cut, the parts lie side by side in fp32 and are added in order: the same bits every time, one rounding.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(kind.alignment[1]));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(kind.alignment[0]));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(kind.alignment[2]));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(kind.alignment[2]));
  std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> results{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.b, plan.a, plan.c, plan.c, preference,
                                     kMaxCandidates, results.data(), &count);
  // These two say that it has no algorithm with that epilogue for those types, sizes or addresses.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  check_cublas(status, "find an algorithm for " + kind.str());
  std::vector<cublasLtMatmulAlgo_t> found;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[static_cast<size_t>(i)];
    if (result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > static_cast<size_t>(kWorkspaceBytes)) continue;
    found.push_back(result.algo);
  }
  return found;
}

cublasStatus_t GemmLibrary::launch(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                                   const Pointers& pointers) const {
  const float alpha = 1.0f;
  const float beta = plan.accumulate ? 1.0f : 0.0f;
  return cublasLtMatmul(handle_, plan.operation, &alpha, pointers.b, plan.b, pointers.a, plan.a, &beta, pointers.c,
                        plan.c, pointers.d, plan.c, &algorithm, workspace_.raw(),
                        static_cast<size_t>(kWorkspaceBytes), stream_.handle());
}

// Runs every candidate on the call's own operands. What they write is overwritten by the call itself, except where it
// adds to c: then they write elsewhere.
GemmAlgorithm GemmLibrary::fastest(const Plan& plan, const std::vector<cublasLtMatmulAlgo_t>& all,
                                   const Pointers& pointers) {
  Pointers target = pointers;
  Tensor scratch;
  if (plan.accumulate) {
    try {
      scratch = Tensor::empty(stream_, {plan.d_bytes}, DType::u8, MemoryTag::workspace);
    } catch (const MachineError&) {
      return all.front();  // memory is full to the brim: trust the library
    }
    target.d = scratch.raw();
  }
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

GemmAlgorithm GemmLibrary::choose(const GemmKind& kind, const Plan& plan, const Pointers& pointers) {
  if (const auto recorded = imported_.find(kind.str()); recorded != imported_.end()) return recorded->second;
  const std::vector<cublasLtMatmulAlgo_t> all = candidates(kind, plan);
  if (all.empty()) return {};
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_.handle(), &capture), "ask whether a stream is being captured");
  if (all.size() == 1 || capture != cudaStreamCaptureStatusNone) return all.front();
  return fastest(plan, all, pointers);
}

GemmLibrary::Plan& GemmLibrary::find_plan(const GemmKind& kind, const Pointers& pointers) {
  std::unique_ptr<Plan>& slot = plans_[kind];
  if (slot == nullptr) {
    std::unique_ptr<Plan> plan = describe(kind);
    plan->set_pointers(pointers);
    plan->algorithm = choose(kind, *plan, pointers);
    slot = std::move(plan);
  }
  return *slot;
}

bool GemmLibrary::run(const GemmCall& call) {
  const GemmKind kind = kind_of(call);
  if (kind.m == 0 || kind.n == 0) return true;
  TRIREME_CHECK(kind.k > 0, "a product of empty sums");
  stream_.activate();
  const Pointers pointers{.a = call.a.tensor.raw(),
                          .b = call.b.tensor.raw(),
                          .c = call.c.raw(),
                          .d = call.c.raw(),
                          .vector = call.vector.raw(),
                          .aux = call.aux.raw()};
  const Plan& plan = find_plan(kind, pointers);
  if (!plan.algorithm.has_value()) return false;
  plan.set_pointers(pointers);
  check_cublas(launch(plan, *plan.algorithm, pointers), "compute " + kind.str());
  return true;
}

std::string GemmLibrary::version() const { return std::to_string(cublasLtGetVersion()); }
std::string GemmLibrary::device() const { return device_info(stream_.device().index).name; }

std::unordered_map<std::string, GemmAlgorithm> GemmLibrary::choices() const {
  std::unordered_map<std::string, GemmAlgorithm> all = imported_;
  for (const auto& [kind, plan] : plans_) {
    if (plan != nullptr) all.insert_or_assign(kind.str(), plan->algorithm);
  }
  return all;
}

void GemmLibrary::import(const std::unordered_map<std::string, GemmAlgorithm>& choices) {
  for (const auto& [name, algorithm] : choices) imported_.insert_or_assign(name, algorithm);
  std::erase_if(plans_, [&](const auto& entry) { return choices.contains(entry.first.str()); });
}

bool try_gemm(Stream& stream, const GemmCall& call) { return as_cuda(stream).resource<GemmLibrary>().run(call); }

void gemm(Stream& stream, const GemmOperand& a, const GemmOperand& b, Tensor& c, bool accumulate) {
  if (a.tensor.dim(a.transposed ? 0 : 1) == 0) {
    if (!accumulate) fill(stream, c, 0);
    return;
  }
  if (try_gemm(stream, {.a = a, .b = b, .c = c, .accumulate = accumulate})) return;
  throw MachineError({.what = "cuBLASLt has no algorithm for a product of " + c.shape().str(),
                      .hint = "a newer cuBLASLt, or run.device: cpu"});
}

}  // namespace trireme::cuda
