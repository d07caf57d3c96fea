// The one file that includes cuDNN's C++ frontend: headers alone, half a minute to compile. They look cuDNN's functions
// up in the library behind `cudnn_dlhandle`, and those of the CUDA runtime in libcudart.so.
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include "core/ops/cuda/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>

#include "core/device/cuda/cuda_stream.h"
#include "core/device/cuda/loader/library.h"
#include "core/ops/cuda/document_mask.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}

namespace trireme::cuda {

namespace {

namespace fe = cudnn_frontend;
using ops::AttentionShape;

constexpr int64_t kMinSequence = 128;
constexpr int64_t kAlignment = 16;  // bytes
// The deterministic backward pass keeps B·H·T² bf16 numbers, documents a mask of B·T²; a batch that needs more is cut
// into parts.
constexpr int64_t kMaxExtraBytes = int64_t{1} << 30;

// Names of the tensors of a graph.
enum Uid : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv, kMask };

using Pointers = std::unordered_map<int64_t, void*>;
using Handle = std::shared_ptr<std::remove_pointer_t<cudnnHandle_t>>;

// The tensors of a call with `batch` sequences, as cuDNN sees them: [batch, heads, T, D], or 1 for D.
class Tensors {
 public:
  Tensors(fe::graph::Graph& graph, const AttentionShape& shape, int64_t batch)
      : graph_(graph), shape_(shape), batch_(batch) {}

  int64_t qkv_stride() const { return (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim; }
  int64_t out_stride() const { return shape_.num_heads * shape_.head_dim; }

  auto qkv(Uid uid, int64_t heads) { return graph_.tensor(describe(uid, heads, qkv_stride())); }
  auto out(Uid uid) { return graph_.tensor(describe(uid, shape_.num_heads, out_stride())); }
  auto lse(Uid uid) {
    return graph_.tensor(fe::graph::Tensor_attributes()
                             .set_uid(uid)
                             .set_dim({batch_, shape_.num_heads, shape_.sequence, 1})
                             .set_stride({shape_.num_heads * shape_.sequence, shape_.sequence, 1, 1})
                             .set_data_type(fe::DataType_t::FLOAT));
  }
  // What is added to the scores, alike for all heads (document_mask.h).
  auto mask() {
    const int64_t row = document_mask_stride(shape_.sequence);
    return graph_.tensor(fe::graph::Tensor_attributes()
                             .set_uid(kMask)
                             .set_dim({batch_, 1, shape_.sequence, shape_.sequence})
                             .set_stride({shape_.sequence * row, shape_.sequence * row, row, 1})
                             .set_data_type(fe::DataType_t::BFLOAT16));
  }
  // A result that the graph has made.
  void write(const std::shared_ptr<fe::graph::Tensor_attributes>& result, Uid uid, int64_t heads, int64_t stride) {
    const fe::graph::Tensor_attributes like = describe(uid, heads, stride);
    result->set_output(true).set_uid(uid).set_dim(like.get_dim()).set_stride(like.get_stride());
    result->set_data_type(fe::DataType_t::BFLOAT16);
  }
  void write_lse(const std::shared_ptr<fe::graph::Tensor_attributes>& result) {
    result->set_output(true).set_uid(kLse).set_data_type(fe::DataType_t::FLOAT);
    result->set_dim({batch_, shape_.num_heads, shape_.sequence, 1});
    result->set_stride({shape_.num_heads * shape_.sequence, shape_.sequence, 1, 1});
  }

 private:
  fe::graph::Tensor_attributes describe(Uid uid, int64_t heads, int64_t row_stride) const {
    return fe::graph::Tensor_attributes()
        .set_uid(uid)
        .set_dim({batch_, heads, shape_.sequence, shape_.head_dim})
        .set_stride({shape_.sequence * row_stride, shape_.head_dim, row_stride, 1})
        .set_data_type(fe::DataType_t::BFLOAT16);
  }

  fe::graph::Graph& graph_;
  const AttentionShape& shape_;
  int64_t batch_;
};

// What plans are made for: the GPU of a handle, or, without one, a GPU that cuDNN's JSON describes.
struct Target {
  cudnnHandle_t handle = nullptr;
  std::shared_ptr<fe::DeviceProperties> gpu = nullptr;
  int32_t compute_capability = 0;  // of `gpu`: 900 for 9.0
};

// One pass over `batch` sequences.
struct Pass {
  fe::graph::Graph graph;
  int64_t batch = 0;
  bool documents = false;
  int64_t workspace_bytes = 0;  // where there is a handle
  std::string problem;          // empty: it can be executed, where there is a handle

  void build(const Target& target) {
    const auto failed = [&](fe::error_t status) {
      if (status.is_bad()) problem = status.get_message();
      if (status.is_bad() && problem.empty()) problem = "it gives no reason";
      return status.is_bad();
    };
    if (target.handle == nullptr) {
      if (failed(graph.validate()) || failed(graph.build_operation_graph()) ||
          failed(graph.create_execution_plans({fe::HeurMode_t::A}))) {
        return;
      }
      failed(graph.check_support());
    } else if (!failed(graph.validate()) && !failed(graph.build_operation_graph(target.handle)) &&
               !failed(graph.create_execution_plans({fe::HeurMode_t::A})) && !failed(graph.check_support()) &&
               !failed(graph.build_plans())) {
      failed(graph.get_workspace_size(workspace_bytes));
    }
  }
};

std::unique_ptr<Pass> make_pass(const Target& target, int64_t batch, bool documents) {
  auto pass = std::make_unique<Pass>();
  pass->batch = batch;
  pass->documents = documents;
  pass->graph.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  // Nodes take this over when they are added.
  if (target.handle == nullptr) {
    pass->graph.set_device_properties(target.gpu).set_sm_version(target.compute_capability);
  }
  return pass;
}

std::unique_ptr<Pass> make_forward(const Target& target, const AttentionShape& shape, int64_t batch, bool documents) {
  auto pass = make_pass(target, batch, documents);
  Tensors tensors(pass->graph, shape, batch);
  const auto q = tensors.qkv(kQ, shape.num_heads);
  const auto k = tensors.qkv(kK, shape.num_kv_heads);
  const auto v = tensors.qkv(kV, shape.num_kv_heads);
  auto attributes = fe::graph::SDPA_attributes();
  attributes.set_generate_stats(true).set_causal_mask(true).set_attn_scale(shape.scale);
  if (documents) attributes.set_bias(tensors.mask());
  auto [out, lse] = pass->graph.sdpa(q, k, v, attributes);
  tensors.write(out, kOut, shape.num_heads, tensors.out_stride());
  tensors.write_lse(lse);
  pass->build(target);
  return pass;
}

std::unique_ptr<Pass> make_backward(const Target& target, const AttentionShape& shape, int64_t batch, bool documents) {
  auto pass = make_pass(target, batch, documents);
  Tensors tensors(pass->graph, shape, batch);
  const auto q = tensors.qkv(kQ, shape.num_heads);
  const auto k = tensors.qkv(kK, shape.num_kv_heads);
  const auto v = tensors.qkv(kV, shape.num_kv_heads);
  const auto out = tensors.out(kOut);
  const auto dout = tensors.out(kDout);
  const auto lse = tensors.lse(kLse);
  auto attributes = fe::graph::SDPA_backward_attributes();
  attributes.set_causal_mask(true).set_attn_scale(shape.scale).set_deterministic_algorithm(true);
  if (documents) attributes.set_bias(tensors.mask());
  auto [dq, dk, dv] = pass->graph.sdpa_backward(q, k, v, out, dout, lse, attributes);
  tensors.write(dq, kDq, shape.num_heads, tensors.qkv_stride());
  tensors.write(dk, kDk, shape.num_kv_heads, tensors.qkv_stride());
  tensors.write(dv, kDv, shape.num_kv_heads, tensors.qkv_stride());
  pass->build(target);
  return pass;
}

using MakePass = std::unique_ptr<Pass> (*)(const Target&, const AttentionShape&, int64_t batch, bool documents);

int64_t mask_bytes(const AttentionShape& shape, const Pass& pass) {
  return pass.documents ? pass.batch * shape.sequence * document_mask_stride(shape.sequence) * dtype_bytes(DType::bf16)
                        : 0;
}

// A pass over the largest equal part of the batch whose extra memory is within bounds, or over one sequence.
std::unique_ptr<Pass> largest_part(MakePass make, const Target& target, const AttentionShape& shape, bool documents) {
  std::unique_ptr<Pass> pass;
  for (int64_t parts = 1; parts <= shape.batch; ++parts) {
    if (shape.batch % parts != 0) continue;
    pass = make(target, shape, shape.batch / parts, documents);
    if (!pass->problem.empty() || pass->workspace_bytes + mask_bytes(shape, *pass) <= kMaxExtraBytes) break;
  }
  return pass;
}

// Both passes of a shape.
struct Plans {
  std::unique_ptr<Pass> forward;
  std::unique_ptr<Pass> backward;
  std::string problem;

  void build(const Target& target, const AttentionShape& shape, bool documents) {
    forward = largest_part(make_forward, target, shape, documents);
    problem = forward->problem;
    if (!problem.empty()) return;
    backward = largest_part(make_backward, target, shape, documents);
    problem = backward->problem;
  }
};

// Why a call is not for cuDNN whatever the GPU.
std::string refusal(const AttentionShape& shape, DType dtype) {
  if (dtype != DType::bf16) return "not in bf16";
  if (shape.sequence < kMinSequence) return "shorter than " + std::to_string(kMinSequence) + " positions";
  if (shape.head_dim * dtype_bytes(dtype) % kAlignment != 0) return "the head dim is no multiple of 8";
  return "";
}

// Opens cuDNN for the frontend; what is wrong, or nothing.
std::string open_cudnn() {
  const SharedLibrary& library = cudnn_library();
  if (!library.found()) return library.names().file + " was not found: " + library.names().package;
  fe::cudnn_dlhandle = library.handle();
  return "";
}

class CudnnAttention {
 public:
  explicit CudnnAttention(CudaStream& stream) : stream_(stream) {
    problem_ = open_cudnn();
    if (!problem_.empty()) return;
    try {
      stream.activate();
      if (fe::detail::create_handle(&handle_) != CUDNN_STATUS_SUCCESS) {
        handle_ = nullptr;
        problem_ = "cuDNN doesn't start on this GPU";
      } else if (fe::detail::set_stream(handle_, stream.handle()) != CUDNN_STATUS_SUCCESS) {
        problem_ = "cuDNN doesn't take the stream";
      }
    } catch (const std::exception& error) {
      problem_ = error.what();
    }
  }
  ~CudnnAttention() {
    plans_.clear();
    if (handle_ != nullptr) fe::detail::destroy_handle(handle_);
  }
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  const Plans& plans(const AttentionShape& shape, bool documents) {
    const Key key{shape.batch,    shape.sequence, shape.num_heads, shape.num_kv_heads,
                  shape.head_dim, shape.scale,    documents};
    const auto [at, fresh] = plans_.try_emplace(key);
    Plans& plans = at->second;
    if (!fresh) return plans;
    plans.problem = problem_;
    if (!plans.problem.empty()) return plans;
    try {
      stream_.activate();
      plans.build({.handle = handle_}, shape, documents);
      if (plans.problem.empty()) {
        reserve(workspace_, std::max(plans.forward->workspace_bytes, plans.backward->workspace_bytes));
        reserve(mask_, std::max(mask_bytes(shape, *plans.forward), mask_bytes(shape, *plans.backward)));
      }
    } catch (const std::exception& error) {
      plans.problem = error.what();
    }
    return plans;
  }

  // On the sequences from `first` on, as many as the pass takes.
  void execute(const Pass& pass, const AttentionShape& shape, const Tensor& document_start, int64_t first,
               Pointers& pointers) {
    stream_.activate();
    if (pass.documents) {
      const Tensor starts = document_start.slice(first * shape.sequence, (first + pass.batch) * shape.sequence);
      document_mask(stream_, starts, shape.sequence, mask_);
      pointers[kMask] = mask_.raw();
    }
    fe::error_t status = pass.graph.execute(handle_, pointers, workspace_.raw());
    if (status.is_bad()) throw MachineError({.what = "cuDNN failed in attention", .found = status.get_message()});
  }

 private:
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, float, bool>;

  void reserve(Tensor& memory, int64_t bytes) {
    if (memory.defined() && bytes <= memory.bytes()) return;
    memory = {};  // queued work that uses it comes before what gets this memory next
    memory = Tensor::empty(stream_, {bytes}, DType::u8, MemoryTag::workspace);
  }

  CudaStream& stream_;
  cudnnHandle_t handle_ = nullptr;
  std::string problem_;
  std::map<Key, Plans> plans_;
  Tensor workspace_;
  Tensor mask_;
};

bool is_aligned(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.raw()) % kAlignment == 0; }

std::byte* at(const Tensor& tensor, int64_t element) {
  return static_cast<std::byte*>(tensor.raw()) + element * dtype_bytes(tensor.dtype());
}

// Of sequence `first` and later: where queries, keys and values, or their gradients, begin in a packed tensor.
void point_into(const Tensor& packed, const AttentionShape& shape, int64_t first, Uid q, Uid k, Uid v,
                Pointers& pointers) {
  const int64_t begin = first * shape.sequence * packed.dim(1);
  pointers[q] = at(packed, begin);
  pointers[k] = at(packed, begin + shape.num_heads * shape.head_dim);
  pointers[v] = at(packed, begin + (shape.num_heads + shape.num_kv_heads) * shape.head_dim);
}

}  // namespace

std::string cudnn_attention_refusal(Stream& stream, const AttentionShape& shape, DType dtype, bool documents) {
  const std::string reason = refusal(shape, dtype);
  return reason.empty() ? as_cuda(stream).resource<CudnnAttention>().plans(shape, documents).problem : reason;
}

std::string cudnn_attention_refusal_of(const DescribedGpu& gpu, const AttentionShape& shape, DType dtype,
                                       bool documents) {
  std::string reason = refusal(shape, dtype);
  if (reason.empty()) reason = open_cudnn();
  if (!reason.empty()) return reason;
  try {
    auto properties = std::make_shared<fe::DeviceProperties>();
    fe::error_t status = properties->deserialize({gpu.json.begin(), gpu.json.end()});
    if (status.is_bad()) return "cuDNN doesn't take the description of the GPU: " + status.get_message();
    Plans plans;
    plans.build({.handle = nullptr, .gpu = properties, .compute_capability = gpu.compute_capability}, shape, documents);
    return plans.problem;
  } catch (const std::exception& error) {
    return error.what();
  }
}

bool cudnn_attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                             const Tensor& document_start, Tensor& out, Tensor& lse) {
  const bool documents = document_start.defined();
  if (!is_aligned(qkv) || !is_aligned(out) || !is_aligned(lse)) return false;
  if (!cudnn_attention_refusal(stream, shape, qkv.dtype(), documents).empty()) return false;
  CudnnAttention& cudnn = as_cuda(stream).resource<CudnnAttention>();
  const Pass& pass = *cudnn.plans(shape, documents).forward;
  for (int64_t first = 0; first < shape.batch; first += pass.batch) {
    Pointers pointers{{kOut, at(out, first * shape.sequence * out.dim(1))},
                      {kLse, at(lse, first * shape.num_heads * shape.sequence)}};
    point_into(qkv, shape, first, kQ, kK, kV, pointers);
    cudnn.execute(pass, shape, document_start, first, pointers);
  }
  return true;
}

bool cudnn_attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                              const Tensor& document_start, const Tensor& out, const Tensor& lse, const Tensor& dout,
                              Tensor& dqkv) {
  const bool documents = document_start.defined();
  for (const Tensor& t : {qkv, out, lse, dout, static_cast<const Tensor&>(dqkv)}) {
    if (!is_aligned(t)) return false;
  }
  if (!cudnn_attention_refusal(stream, shape, qkv.dtype(), documents).empty()) return false;
  CudnnAttention& cudnn = as_cuda(stream).resource<CudnnAttention>();
  const Pass& pass = *cudnn.plans(shape, documents).backward;
  for (int64_t first = 0; first < shape.batch; first += pass.batch) {
    const int64_t begin = first * shape.sequence * out.dim(1);
    Pointers pointers{
        {kOut, at(out, begin)}, {kDout, at(dout, begin)}, {kLse, at(lse, first * shape.num_heads * shape.sequence)}};
    point_into(qkv, shape, first, kQ, kK, kV, pointers);
    point_into(dqkv, shape, first, kDq, kDk, kDv, pointers);
    cudnn.execute(pass, shape, document_start, first, pointers);
  }
  return true;
}

}  // namespace trireme::cuda
