// Recording and launching CUDA graphs.
#include <vector>

#include "core/device/cuda/check.h"
#include "core/device/cuda/cuda_stream.h"
#include "core/error.h"

namespace trireme::cuda {

namespace {

// The memory of one graph: blocks of the stream's own allocator, given back when the graph ends.
class GraphMemory final : public Allocator {
 public:
  explicit GraphMemory(Allocator& source) : Allocator(source.device()), source_(source) {}
  ~GraphMemory() override { release_cached(); }

 protected:
  void* system_allocate(int64_t bytes) override {
    blocks_.push_back(source_.allocate(bytes, MemoryTag::activations));
    return blocks_.back()->data();
  }
  void system_free(void*, int64_t) override {}  // with the blocks

 private:
  Allocator& source_;
  std::vector<std::shared_ptr<Storage>> blocks_;
};

class CudaGraph final : public Graph {
 public:
  CudaGraph(CudaStream& stream, std::unique_ptr<Allocator> memory, cudaGraphExec_t graph)
      : stream_(stream), memory_(std::move(memory)), graph_(graph) {}
  ~CudaGraph() override {
    cudaStreamSynchronize(stream_.handle());
    cudaGraphExecDestroy(graph_);
  }
  void launch() override {
    stream_.activate();
    check(cudaGraphLaunch(graph_, stream_.handle()), "launch a graph");
  }

 private:
  CudaStream& stream_;
  std::unique_ptr<Allocator> memory_;
  cudaGraphExec_t graph_;
};

}  // namespace

std::unique_ptr<Graph> CudaStream::record_graph(const std::function<void()>& work) {
  TRIREME_CHECK(!recording_, "a graph inside a graph");
  activate();
  Allocator& usual = allocator();
  auto memory = std::make_unique<GraphMemory>(usual);
  // Relaxed: the graph's memory may have to be allocated meanwhile, and other threads of this process go on.
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "record a graph");
  recording_ = true;
  use_allocator(*memory);
  cudaGraph_t graph = nullptr;
  const auto end = [&] {
    use_allocator(usual);
    recording_ = false;
    return cudaStreamEndCapture(stream_, &graph);
  };
  try {
    work();
  } catch (...) {
    end();
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(end(), "record a graph");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "make a recorded graph executable");
  return std::make_unique<CudaGraph>(*this, std::move(memory), executable);
}

}  // namespace trireme::cuda
