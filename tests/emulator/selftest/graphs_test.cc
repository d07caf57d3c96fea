// What is captured does not run; a graph runs it in order, as often as it is launched.
#include "tests/emulator/selftest/fixture.h"

namespace emulator {

namespace {

__global__ void times_plus(int* data, int factor, int term) { data[threadIdx.x] = data[threadIdx.x] * factor + term; }

class Graphs : public EmulatorTest {
 protected:
  void begin() { EXPECT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal)); }
  cudaGraphExec_t end() {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    EXPECT_CUDA(cudaStreamEndCapture(stream_, &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&exec, graph));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    return exec;
  }
  // Ends a capture that must have failed.
  void expect_broken() {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  }
};

TEST_F(Graphs, RunWhatWasCaptured) {
  const Counters before = counters();
  auto* data = device_array(std::vector<int>(4, 1));
  auto* copy = device_array(std::vector<int>(4, 0));
  auto calls = std::make_shared<int>(0);
  begin();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  EXPECT_CUDA(cudaStreamIsCapturing(stream_, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  EXPECT_TRUE(is_capturing(stream_));
  EXPECT_CUDA(launch(1, 4, 0, times_plus, data, 2, 1));
  EXPECT_CUDA(launch(1, 4, 0, times_plus, data, 1, 10));
  EXPECT_CUDA(cudaMemcpyAsync(copy, data, 16, cudaMemcpyDeviceToDevice, stream_));
  submit(stream_, "library call", [calls] { ++*calls; });
  cudaGraphExec_t exec = end();
  EXPECT_FALSE(is_capturing(stream_));
  EXPECT_EQ(host_array(data, 4)[0], 1) << "nothing has run";

  for (int i = 0; i < 3; ++i) EXPECT_CUDA(cudaGraphLaunch(exec, stream_));
  EXPECT_CUDA(cudaGraphExecDestroy(exec));  // the launches keep what they need
  EXPECT_EQ(host_array(copy, 4), std::vector<int>(4, ((1 * 2 + 11) * 2 + 11) * 2 + 11));
  EXPECT_EQ(*calls, 3);
  EXPECT_EQ(counters().graphs, before.graphs);
  EXPECT_EQ(counters().graph_launches, before.graph_launches + 3);
}

TEST_F(Graphs, ReadPinnedMemoryAtEachLaunch) {
  auto* data = device_array<int>(1);
  int* pinned = nullptr;
  EXPECT_CUDA(cudaHostAlloc(&pinned, 4, cudaHostAllocDefault));
  begin();
  EXPECT_CUDA(cudaMemcpyAsync(data, pinned, 4, cudaMemcpyHostToDevice, stream_));
  cudaGraphExec_t exec = end();
  for (const int value : {3, 4}) {
    *pinned = value;
    EXPECT_CUDA(cudaGraphLaunch(exec, stream_));
    EXPECT_EQ(host_array(data, 1)[0], value);
  }
  EXPECT_CUDA(cudaGraphExecDestroy(exec));
  EXPECT_CUDA(cudaFreeHost(pinned));
}

TEST_F(Graphs, WaitingBreaksACapture) {
  begin();
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorStreamCaptureUnsupported);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  EXPECT_CUDA(cudaStreamIsCapturing(stream_, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated);
  expect_broken();
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
}

TEST_F(Graphs, EventsStayWithinACapture) {
  cudaStream_t other = new_stream();
  cudaEvent_t before;
  cudaEvent_t event;
  EXPECT_CUDA(cudaEventCreateWithFlags(&before, cudaEventDisableTiming));
  EXPECT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  EXPECT_CUDA(cudaEventRecord(before, stream_));
  begin();
  EXPECT_CUDA(cudaEventRecord(event, stream_));
  EXPECT_CUDA(cudaStreamWaitEvent(stream_, event));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaStreamWaitEvent(other, event), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamWaitEvent(stream_, before), cudaErrorStreamCaptureIsolation);
  expect_broken();
  EXPECT_CUDA(cudaEventDestroy(before));
  EXPECT_CUDA(cudaEventDestroy(event));
}

TEST_F(Graphs, MemoryIsNotAllocatedInACapture) {
  begin();
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 4), cudaErrorStreamCaptureUnsupported);
  EXPECT_CUDA(cudaGraphExecDestroy(end()));
}

TEST_F(Graphs, CallsOutOfPlace) {
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureUnmatched);
  begin();
  EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaErrorIllegalState);
  EXPECT_CUDA(cudaGraphExecDestroy(end()));
  EXPECT_EQ(cudaGraphLaunch(nullptr, stream_), cudaErrorInvalidValue);
}

}  // namespace

}  // namespace emulator
