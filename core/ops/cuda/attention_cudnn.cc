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

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}

namespace trireme::cuda {

namespace {

namespace fe = cudnn_frontend;
using ops::AttentionShape;

constexpr int64_t kMinSequence = 128;
constexpr int64_t kAlignment = 16;  // bytes
// On Hopper the deterministic backward pass keeps B·H·T² bf16 numbers; a batch that needs more is cut into parts.
constexpr int64_t kMaxWorkspaceBytes = int64_t{1} << 30;

// Names of the tensors of a graph.
enum Uid : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

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

// A graph of one pass, built for execution.
struct Pass {
  fe::graph::Graph graph;
  int64_t workspace_bytes = 0;
  std::string problem;  // empty: it can be executed

  void build(cudnnHandle_t handle) {
    const auto failed = [&](fe::error_t status) {
      if (status.is_bad()) problem = status.get_message();
      return status.is_bad();
    };
    if (failed(graph.validate()) || failed(graph.build_operation_graph(handle)) ||
        failed(graph.create_execution_plans({fe::HeurMode_t::A})) || failed(graph.check_support(handle)) ||
        failed(graph.build_plans(handle)) || failed(graph.get_workspace_size(workspace_bytes))) {
      if (problem.empty()) problem = "it gives no reason";
    }
  }
};

void set_types(fe::graph::Graph& graph) {
  graph.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
}

std::unique_ptr<Pass> make_forward(cudnnHandle_t handle, const AttentionShape& shape) {
  auto pass = std::make_unique<Pass>();
  set_types(pass->graph);
  Tensors tensors(pass->graph, shape, shape.batch);
  const auto q = tensors.qkv(kQ, shape.num_heads);
  const auto k = tensors.qkv(kK, shape.num_kv_heads);
  const auto v = tensors.qkv(kV, shape.num_kv_heads);
  auto [out, lse] = pass->graph.sdpa(
      q, k, v, fe::graph::SDPA_attributes().set_generate_stats(true).set_causal_mask(true).set_attn_scale(shape.scale));
  tensors.write(out, kOut, shape.num_heads, tensors.out_stride());
  tensors.write_lse(lse);
  pass->build(handle);
  return pass;
}

std::unique_ptr<Pass> make_backward(cudnnHandle_t handle, const AttentionShape& shape, int64_t batch) {
  auto pass = std::make_unique<Pass>();
  set_types(pass->graph);
  Tensors tensors(pass->graph, shape, batch);
  const auto q = tensors.qkv(kQ, shape.num_heads);
  const auto k = tensors.qkv(kK, shape.num_kv_heads);
  const auto v = tensors.qkv(kV, shape.num_kv_heads);
  const auto out = tensors.out(kOut);
  const auto dout = tensors.out(kDout);
  const auto lse = tensors.lse(kLse);
  auto [dq, dk, dv] = pass->graph.sdpa_backward(q, k, v, out, dout, lse,
                                                fe::graph::SDPA_backward_attributes()
                                                    .set_causal_mask(true)
                                                    .set_attn_scale(shape.scale)
                                                    .set_deterministic_algorithm(true));
  tensors.write(dq, kDq, shape.num_heads, tensors.qkv_stride());
  tensors.write(dk, kDk, shape.num_kv_heads, tensors.qkv_stride());
  tensors.write(dv, kDv, shape.num_kv_heads, tensors.qkv_stride());
  pass->build(handle);
  return pass;
}

// Both passes of a shape.
struct Plans {
  std::unique_ptr<Pass> forward;
  std::unique_ptr<Pass> backward;
  int64_t backward_batch = 0;  // sequences of one execution; divides the batch
  std::string problem;
};

class CudnnAttention {
 public:
  explicit CudnnAttention(CudaStream& stream) : stream_(stream) {
    const SharedLibrary& library = cudnn_library();
    if (!library.found()) {
      problem_ = library.names().file + " was not found: " + library.names().package;
      return;
    }
    fe::cudnn_dlhandle = library.handle();
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

  const Plans& plans(const AttentionShape& shape) {
    const Key key{shape.batch, shape.sequence, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.scale};
    const auto [at, fresh] = plans_.try_emplace(key);
    Plans& plans = at->second;
    if (!fresh) return plans;
    plans.problem = problem_;
    if (!plans.problem.empty()) return plans;
    try {
      build(shape, plans);
    } catch (const std::exception& error) {
      plans.problem = error.what();
    }
    return plans;
  }

  void execute(const Pass& pass, Pointers& pointers) {
    stream_.activate();
    fe::error_t status = pass.graph.execute(handle_, pointers, workspace_.raw());
    if (status.is_bad()) throw MachineError({.what = "cuDNN failed in attention", .found = status.get_message()});
  }

 private:
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, float>;

  void build(const AttentionShape& shape, Plans& plans) {
    stream_.activate();
    plans.forward = make_forward(handle_, shape);
    plans.problem = plans.forward->problem;
    if (!plans.problem.empty()) return;
    for (int64_t parts = 1; parts <= shape.batch; ++parts) {
      if (shape.batch % parts != 0) continue;
      plans.backward_batch = shape.batch / parts;
      plans.backward = make_backward(handle_, shape, plans.backward_batch);
      plans.problem = plans.backward->problem;
      if (!plans.problem.empty()) return;
      if (plans.backward->workspace_bytes <= kMaxWorkspaceBytes) break;
    }
    const int64_t bytes = std::max(plans.forward->workspace_bytes, plans.backward->workspace_bytes);
    if (bytes > workspace_.bytes()) {
      workspace_ = {};  // queued work that uses it comes before what gets this memory next
      workspace_ = Tensor::empty(stream_, {bytes}, DType::u8, MemoryTag::workspace);
    }
  }

  CudaStream& stream_;
  cudnnHandle_t handle_ = nullptr;
  std::string problem_;
  std::map<Key, Plans> plans_;
  Tensor workspace_;
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
  if (dtype != DType::bf16) return "not in bf16";
  if (documents) return "documents have boundaries";
  if (shape.sequence < kMinSequence) return "shorter than " + std::to_string(kMinSequence) + " positions";
  if (shape.head_dim * dtype_bytes(dtype) % kAlignment != 0) return "the head dim is no multiple of 8";
  return as_cuda(stream).resource<CudnnAttention>().plans(shape).problem;
}

bool cudnn_attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv, Tensor& out, Tensor& lse) {
  if (!is_aligned(qkv) || !is_aligned(out) || !is_aligned(lse)) return false;
  if (!cudnn_attention_refusal(stream, shape, qkv.dtype(), /*documents=*/false).empty()) return false;
  CudnnAttention& cudnn = as_cuda(stream).resource<CudnnAttention>();
  Pointers pointers{{kOut, out.raw()}, {kLse, lse.raw()}};
  point_into(qkv, shape, 0, kQ, kK, kV, pointers);
  cudnn.execute(*cudnn.plans(shape).forward, pointers);
  return true;
}

bool cudnn_attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                              const Tensor& lse, const Tensor& dout, Tensor& dqkv) {
  for (const Tensor& t : {qkv, out, lse, dout, static_cast<const Tensor&>(dqkv)}) {
    if (!is_aligned(t)) return false;
  }
  if (!cudnn_attention_refusal(stream, shape, qkv.dtype(), /*documents=*/false).empty()) return false;
  CudnnAttention& cudnn = as_cuda(stream).resource<CudnnAttention>();
  const Plans& plans = cudnn.plans(shape);
  for (int64_t first = 0; first < shape.batch; first += plans.backward_batch) {
    const int64_t begin = first * shape.sequence * out.dim(1);
    Pointers pointers{
        {kOut, at(out, begin)}, {kDout, at(dout, begin)}, {kLse, at(lse, first * shape.num_heads * shape.sequence)}};
    point_into(qkv, shape, first, kQ, kK, kV, pointers);
    point_into(dqkv, shape, first, kDq, kDk, kDv, pointers);
    cudnn.execute(*plans.backward, pointers);
  }
  return true;
}

}  // namespace trireme::cuda
