// Capture of a stream's operations, and running them again.
#include "tests/emulator/api.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

struct CUgraph_st {
  emulator::Ref<emulator::Graph> operations;
};

struct CUgraphExec_st {
  emulator::Ref<emulator::Graph> operations;
};

namespace emulator {

bool break_capture(Stream& stream) {
  HiddenLock lock(stream.mutex);
  if (!stream.capture) return false;
  stream.capture_broken = true;
  return true;
}

}  // namespace emulator

using emulator::api;
using emulator::HiddenLock;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return api("cudaStreamBeginCapture", [&] {
    emulator::Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    HiddenLock lock(found->mutex);
    if (found->capture) return cudaErrorIllegalState;
    found->capture = emulator::Ref<emulator::Graph>::adopt(new emulator::Graph);
    found->capture_broken = false;
    found->capture_relaxed = mode == cudaStreamCaptureModeRelaxed;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  return api("cudaStreamEndCapture", [&] {
    emulator::Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    emulator::Ref<emulator::Graph> captured;
    bool broken;
    {
      HiddenLock lock(found->mutex);
      captured = std::move(found->capture);
      found->capture = {};
      broken = found->capture_broken;
    }
    if (!captured) return cudaErrorStreamCaptureUnmatched;
    if (broken) return cudaErrorStreamCaptureInvalidated;
    *graph = new CUgraph_st{std::move(captured)};
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return api("cudaStreamIsCapturing", [&] {
    emulator::Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    HiddenLock lock(found->mutex);
    *status = !found->capture         ? cudaStreamCaptureStatusNone
              : found->capture_broken ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = nullptr;
  return api("cudaGraphInstantiate", [&] {
    if (graph == nullptr) return cudaErrorInvalidValue;
    *exec = new CUgraphExec_st{graph->operations};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return api("cudaGraphLaunch", [&] {
    emulator::Stream* found = emulator::find_stream(stream);
    if (exec == nullptr) return cudaErrorInvalidValue;
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    emulator::tallies().graph_launches += 1;
    emulator::enqueue(*found, emulator::make_graph_run(exec->operations));
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const emulator::race::Ignored ignored;
  if (exec == nullptr) return emulator::note_error(cudaErrorInvalidValue);
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const emulator::race::Ignored ignored;
  if (graph == nullptr) return emulator::note_error(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
