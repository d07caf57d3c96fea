#include "core/ops/cuda/grouped_gemm.h"

#include <cublas_v2.h>

#include <algorithm>
#include <limits>

#include "core/device/cuda/libraries.h"
#include "core/ops/cuda/gemm_library.h"

namespace trireme::cuda {

namespace {

constexpr int64_t kAlignment = 16;  // bytes: what the library's kernels load at once

bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kAlignment == 0; }

bool fits(const GroupedGemm& call) {
  for (const int64_t ld : {call.a_ld, call.b_ld, call.c_ld}) {
    if (ld * dtype_bytes(call.dtype) % kAlignment != 0) return false;
  }
  constexpr int64_t kLargest = std::numeric_limits<int>::max();
  return std::all_of(call.products.begin(), call.products.end(), [&](const GroupedGemm::Product& p) {
    return is_aligned(p.a) && is_aligned(p.b) && is_aligned(p.c) && std::max({p.m, p.n, p.k}) <= kLargest;
  });
}

// cuBLAS on one stream, a resource of it.
class CublasHandle {
 public:
  explicit CublasHandle(CudaStream& stream) : workspace_(stream.resource<GemmLibrary>().workspace()) {
    if (!library_info(GpuLibrary::cublas).found) return;
    stream.activate();
    check_cublas(cublasCreate(&handle_), "start on " + stream.device().str(), "cuBLAS");
    check_cublas(cublasSetStream(handle_, stream.handle()), "take a stream", "cuBLAS");
    // After the stream, whose setting takes the library back to a workspace of its own.
    check_cublas(cublasSetWorkspace(handle_, workspace_.raw(), static_cast<size_t>(workspace_.bytes())),
                 "take a workspace", "cuBLAS");
  }
  ~CublasHandle() {
    if (handle_ != nullptr) cublasDestroy(handle_);
  }
  CublasHandle(const CublasHandle&) = delete;
  CublasHandle& operator=(const CublasHandle&) = delete;

  // Null where cuBLAS is not installed.
  cublasHandle_t get() const { return handle_; }

 private:
  Tensor workspace_;
  cublasHandle_t handle_ = nullptr;
};

// The arguments of the library's call, each product a group of its own. It sees all matrices column by column, that is
// transposed: it computes cᵀ = op(b)ᵀ·op(a)ᵀ, its first operand is our b and its second our a.
struct Arguments {
  explicit Arguments(const GroupedGemm& call) : count(call.products.size()) {
    for (const GroupedGemm::Product& p : call.products) {
      m.push_back(static_cast<int>(p.n));
      n.push_back(static_cast<int>(p.m));
      k.push_back(static_cast<int>(p.k));
    }
    const auto all = [&](auto value) { return std::vector(count, value); };
    transpose_a = all(call.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    transpose_b = all(call.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    a_ld = all(static_cast<int>(call.b_ld));
    b_ld = all(static_cast<int>(call.a_ld));
    c_ld = all(static_cast<int>(call.c_ld));
    sizes = all(1);
    alpha = all(1.0f);
    beta = all(call.accumulate ? 1.0f : 0.0f);
  }

  size_t count;
  std::vector<cublasOperation_t> transpose_a, transpose_b;
  std::vector<int> m, n, k, a_ld, b_ld, c_ld, sizes;
  std::vector<float> alpha, beta;
};

// The addresses of all a, then all b, then all c, on the GPU.
Tensor upload_addresses(CudaStream& stream, const GroupedGemm& call) {
  std::vector<const void*> addresses;
  for (const GroupedGemm::Product& p : call.products) addresses.push_back(p.a);
  for (const GroupedGemm::Product& p : call.products) addresses.push_back(p.b);
  for (const GroupedGemm::Product& p : call.products) addresses.push_back(p.c);
  const auto bytes = static_cast<int64_t>(addresses.size() * sizeof(void*));
  Tensor on_device = Tensor::empty(stream, {bytes}, DType::u8, MemoryTag::workspace);
  stream.upload(addresses.data(), on_device.raw(), bytes);
  return on_device;
}

}  // namespace

bool try_grouped_gemm(Stream& any_stream, const GroupedGemm& call) {
  if (call.products.empty()) return true;
  CudaStream& stream = as_cuda(any_stream);
  if (stream.recording() || !fits(call)) return false;
  const cublasHandle_t handle = stream.resource<CublasHandle>().get();
  if (handle == nullptr) return false;
  stream.activate();
  const Arguments x(call);
  const Tensor addresses = upload_addresses(stream, call);
  auto* const a = static_cast<void**>(addresses.raw());
  void** const b = a + x.count;
  void** const c = b + x.count;
  const cudaDataType_t type = call.dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const cublasStatus_t status =
      cublasGemmGroupedBatchedEx(handle, x.transpose_a.data(), x.transpose_b.data(), x.m.data(), x.n.data(), x.k.data(),
                                 x.alpha.data(), b, type, x.a_ld.data(), a, type, x.b_ld.data(), x.beta.data(), c, type,
                                 x.c_ld.data(), static_cast<int>(x.count), x.sizes.data(), CUBLAS_COMPUTE_32F);
  // These say that it has no kernel for such products, or for them on this GPU.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_ARCH_MISMATCH) return false;
  check_cublas(status, "compute " + std::to_string(x.count) + " products", "cuBLAS");
  return true;
}

}  // namespace trireme::cuda
