#include "core/ops/cuda/gemm.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/device/cuda/check.h"
#include "core/ops/cuda/gemm_library.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

namespace {

constexpr int kMaxAlignment = 16;  // bytes: what the widest loads need

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
bool has_aux(Epilogue e) { return e == Epilogue::gelu || e == Epilogue::gelu_bias || e == Epilogue::gelu_gradient; }

// A row-major [rows, columns].
void make_layout(Layout& layout, DType dtype, int64_t rows, int64_t columns) {
  check_cublas(cublasLtMatrixLayoutCreate(&layout, cuda_type(dtype), static_cast<uint64_t>(columns),
                                          static_cast<uint64_t>(rows), columns),
               "describe a matrix");
}

}  // namespace

GemmKind kind_of(const GemmCall& call) {
  const Tensor& a = call.a.tensor;
  const Tensor& b = call.b.tensor;
  GemmKind kind{.m = call.c.dim(0), .n = call.c.dim(1), .k = a.dim(call.a.transposed ? 0 : 1)};
  kind.a_transposed = call.a.transposed;
  kind.b_transposed = call.b.transposed;
  kind.in = a.dtype();
  kind.out = call.c.dtype();
  kind.accumulate = call.addend.defined();
  TRIREME_CHECK(a.dim(call.a.transposed ? 1 : 0) == kind.m && b.dim(call.b.transposed ? 1 : 0) == kind.k &&
                    b.dim(call.b.transposed ? 0 : 1) == kind.n,
                "shapes of a product that don't fit");
  TRIREME_CHECK(a.dtype() == b.dtype() && (call.c.dtype() == a.dtype() || call.c.dtype() == DType::f32));
  TRIREME_CHECK(!kind.accumulate || (call.addend.dtype() == kind.out && call.addend.shape() == call.c.shape()));
  TRIREME_CHECK(call.vector.defined() == has_vector(call.epilogue) && call.aux.defined() == has_aux(call.epilogue));
  kind.epilogue = call.epilogue;
  kind.alignment = {alignment_of(a), alignment_of(b), std::min(alignment_of(call.c), alignment_of(call.addend)),
                    std::min(alignment_of(call.vector), alignment_of(call.aux))};
  return kind;
}

GemmLibrary::Pointers GemmLibrary::pointers_of(const GemmCall& call) {
  return {.a = call.a.tensor.raw(),
          .b = call.b.tensor.raw(),
          .c = call.addend.defined() ? call.addend.raw() : call.c.raw(),
          .d = call.c.raw(),
          .vector = call.vector.raw(),
          .aux = call.aux.raw()};
}

void GemmLibrary::Plan::set_pointers(const Pointers& pointers) const {
  if (has_vector(epilogue)) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointers.vector);
  if (has_aux(epilogue)) set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pointers.aux);
}

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
  workspace_ = Tensor::empty(stream, {kGemmWorkspaceBytes}, DType::u8, MemoryTag::workspace);
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

cublasStatus_t GemmLibrary::launch(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                                   const Pointers& pointers) const {
  const float alpha = 1.0f;
  const float beta = plan.accumulate ? 1.0f : 0.0f;
  return cublasLtMatmul(handle_, plan.operation, &alpha, pointers.b, plan.b, pointers.a, plan.a, &beta, pointers.c,
                        plan.c, pointers.d, plan.c, &algorithm, workspace_.raw(),
                        static_cast<size_t>(kGemmWorkspaceBytes), stream_.handle());
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

bool GemmLibrary::run(const GemmKind& kind, const Pointers& pointers) {
  const Plan& plan = find_plan(kind, pointers);
  if (!plan.algorithm.has_value()) return false;
  plan.set_pointers(pointers);
  check_cublas(launch(plan, *plan.algorithm, pointers), "compute " + kind.str());
  return true;
}

bool GemmLibrary::run(const GemmCall& call) {
  const GemmKind kind = kind_of(call);
  if (kind.m == 0 || kind.n == 0) return true;
  TRIREME_CHECK(kind.k > 0, "a product of empty sums");
  stream_.activate();
  return call.untimed ? run_untimed(kind, pointers_of(call)) : run(kind, pointers_of(call));
}

bool GemmLibrary::run_untimed(const GemmKind& kind, const Pointers& pointers) {
  if (untimed_plans_.size() >= kMaxUntimedPlans) untimed_plans_.clear();
  std::unique_ptr<Plan>& slot = untimed_plans_[kind];
  if (slot == nullptr) {
    std::unique_ptr<Plan> plan = describe(kind);
    plan->set_pointers(pointers);
    const std::vector<cublasLtMatmulAlgo_t> all = candidates(kind, *plan);
    if (!all.empty()) plan->algorithm = all.front();
    slot = std::move(plan);
  }
  if (!slot->algorithm.has_value()) return false;
  slot->set_pointers(pointers);
  check_cublas(launch(*slot, *slot->algorithm, pointers), "compute " + kind.str());
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

bool try_fused_gemm(Stream& stream, const GemmCall& fused, const GemmCall& plain, const std::function<void()>& rest) {
  return as_cuda(stream).resource<GemmLibrary>().run_fused(fused, plain, rest);
}

bool try_gemm(Stream& stream, const GemmCall& call) { return as_cuda(stream).resource<GemmLibrary>().run(call); }

void gemm(Stream& stream, const GemmCall& call) {
  if (call.a.tensor.dim(call.a.transposed ? 0 : 1) == 0) {
    if (!call.addend.defined()) return fill(stream, call.c, 0);
    if (call.addend.raw() != call.c.raw()) copy(stream, call.addend, call.c);
    return;
  }
  if (try_gemm(stream, call)) return;
  throw MachineError({.what = "cuBLASLt has no algorithm for a product of " + call.c.shape().str(),
                      .hint = "a newer cuBLASLt, or run.device: cpu"});
}

void gemm(Stream& stream, const GemmOperand& a, const GemmOperand& b, Tensor& c, bool accumulate) {
  gemm(stream, {.a = a, .b = b, .c = c, .addend = accumulate ? c : Tensor{}});
}

void gemm_untimed(Stream& stream, const GemmOperand& a, const GemmOperand& b, Tensor& c, bool accumulate) {
  gemm(stream, {.a = a, .b = b, .c = c, .addend = accumulate ? c : Tensor{}, .untimed = true});
}

}  // namespace trireme::cuda
