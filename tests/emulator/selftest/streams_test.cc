// Streams run by themselves, in order, and are ordered by events alone; copies wait where the real runtime's do.
#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "tests/emulator/selftest/fixture.h"
#include "tests/emulator/selftest/gate.h"

namespace emulator {

namespace {

__global__ void add_to(int* data, int value) { data[threadIdx.x] += value; }
__global__ void copy_plus_one(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x] + 1; }

class Streams : public EmulatorTest {
 protected:
  cudaEvent_t new_event(unsigned flags = cudaEventDisableTiming) {
    cudaEvent_t event = nullptr;
    EXPECT_CUDA(cudaEventCreateWithFlags(&event, flags));
    events_.push_back(event);
    return event;
  }

  int* pinned_array(size_t count) {
    int* data = nullptr;
    EXPECT_CUDA(cudaHostAlloc(&data, count * sizeof(int), cudaHostAllocPortable));
    pinned_.push_back(data);
    std::fill_n(data, count, -7);
    return data;
  }

  void TearDown() override {
    EmulatorTest::TearDown();
    set_num_devices(2);
    for (cudaEvent_t event : events_) EXPECT_CUDA(cudaEventDestroy(event));
    for (int* data : pinned_) EXPECT_CUDA(cudaFreeHost(data));
    set_num_devices(0);
  }

 private:
  std::vector<cudaEvent_t> events_;
  std::vector<int*> pinned_;
};

TEST_F(Streams, HostGoesOn) {
  std::atomic<int> steps{0};
  Gate gate(stream_);
  submit(stream_, "step", [&] { ++steps; });
  EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  EXPECT_EQ(steps, 0);
  gate.open();
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_EQ(steps, 1);
  EXPECT_CUDA(cudaStreamQuery(stream_));
}

TEST_F(Streams, KeepTheirOrder) {
  auto* data = device_array(std::vector<int>(8, 0));
  for (int i = 0; i < 200; ++i) {
    EXPECT_CUDA(launch(1, 8, 0, add_to, data, 1));
    if (i == 99) {
      EXPECT_CUDA(cudaMemsetAsync(data, 0, 8 * sizeof(int), stream_));
    }
  }
  EXPECT_EQ(host_array(data, 8), std::vector<int>(8, 100));
}

TEST_F(Streams, DoNotWaitForEachOther) {
  Gate gate(stream_);
  cudaStream_t other = new_stream();
  std::atomic<bool> ran{false};
  submit(other, "free", [&] { ran = true; });
  EXPECT_CUDA(cudaStreamSynchronize(other));
  EXPECT_TRUE(ran);
}

TEST_F(Streams, WaitForEvents) {
  cudaStream_t other = new_stream();
  auto* data = device_array(std::vector<int>(4, 0));
  auto* result = device_array<int>(4);
  cudaEvent_t event = new_event();
  {
    Gate gate(stream_);
    EXPECT_CUDA(launch(1, 4, 0, add_to, data, 5));
    EXPECT_CUDA(cudaEventRecord(event, stream_));
    EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
    EXPECT_CUDA(cudaStreamWaitEvent(other, event));
    std::swap(stream_, other);
    EXPECT_CUDA(launch(1, 4, 0, copy_plus_one, data, result));
    EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
  }
  EXPECT_EQ(host_array(result, 4), std::vector<int>(4, 6));
  EXPECT_CUDA(cudaEventQuery(event));
  EXPECT_CUDA(cudaEventSynchronize(event));
}

TEST_F(Streams, WaitForTheRecordThatWasLastAtTheCall) {
  cudaStream_t other = new_stream();
  cudaEvent_t event = new_event();
  EXPECT_CUDA(cudaEventRecord(event, stream_));
  EXPECT_CUDA(cudaStreamWaitEvent(other, event));
  Gate gate(stream_);
  EXPECT_CUDA(cudaEventRecord(event, stream_));  // too late for `other`
  EXPECT_CUDA(cudaStreamSynchronize(other));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
}

TEST_F(Streams, EventsThatWereNotRecordedHoldNobody) {
  cudaEvent_t event = new_event();
  EXPECT_CUDA(cudaStreamWaitEvent(stream_, event));
  EXPECT_CUDA(cudaEventSynchronize(event));
  EXPECT_CUDA(cudaEventQuery(event));
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
}

TEST_F(Streams, TimeBetweenEvents) {
  cudaEvent_t begin = new_event(cudaEventDefault);
  cudaEvent_t end = new_event(cudaEventDefault);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorInvalidResourceHandle) << "never recorded";
  EXPECT_CUDA(cudaEventRecord(begin, stream_));
  submit(stream_, "sleep", [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
  EXPECT_CUDA(cudaEventRecord(end, stream_));
  EXPECT_CUDA(cudaEventSynchronize(end));
  EXPECT_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT_GE(milliseconds, 20.0f);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, new_event()), cudaErrorInvalidResourceHandle) << "untimed";
}

TEST_F(Streams, EventsBelongToADevice) {
  cudaEvent_t event = new_event();
  cudaSetDevice(1);
  cudaStream_t far = new_stream();
  EXPECT_EQ(cudaEventRecord(event, far), cudaErrorInvalidResourceHandle);
  EXPECT_CUDA(cudaEventRecord(event, stream_));
  EXPECT_CUDA(cudaStreamWaitEvent(far, event)) << "any stream may wait for it";
}

TEST_F(Streams, PageableUploadsAreTakenAtTheCall) {
  auto* data = device_array<int>(3);
  std::vector<int> values = {1, 2, 3};
  {
    Gate gate(stream_);
    EXPECT_CUDA(cudaMemcpyAsync(data, values.data(), 12, cudaMemcpyHostToDevice, stream_));
    values.assign({9, 9, 9});
  }
  EXPECT_EQ(host_array(data, 3), (std::vector<int>{1, 2, 3}));
}

TEST_F(Streams, PinnedUploadsAreReadWhenTheStreamGetsThere) {
  auto* data = device_array<int>(1);
  int* pinned = pinned_array(1);
  {
    Gate gate(stream_);
    EXPECT_CUDA(cudaMemcpyAsync(data, pinned, 4, cudaMemcpyHostToDevice, stream_));
    *pinned = 5;
  }
  EXPECT_EQ(host_array(data, 1)[0], 5);
}

TEST_F(Streams, DownloadsWaitUnlessPinned) {
  auto* data = device_array(std::vector<int>{1, 2});
  int* pinned = pinned_array(2);
  {
    Gate gate(stream_);
    EXPECT_CUDA(cudaMemcpyAsync(pinned, data, 8, cudaMemcpyDeviceToHost, stream_));
    EXPECT_EQ(pinned[0], -7);
  }
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  EXPECT_EQ(pinned[1], 2);
  int pageable[2] = {};
  EXPECT_CUDA(cudaMemcpyAsync(pageable, data, 8, cudaMemcpyDeviceToHost, stream_));
  EXPECT_EQ(pageable[1], 2);
}

TEST_F(Streams, DestroyedStreamsFinishTheirWork) {
  std::promise<void> done;
  cudaStream_t stream = nullptr;
  EXPECT_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0));
  {
    Gate gate(stream);
    submit(stream, "last", [&] { done.set_value(); });
    EXPECT_CUDA(cudaStreamDestroy(stream));
  }
  done.get_future().wait();
}

TEST_F(Streams, ManyAtOnce) {
  constexpr int kStreams = 12;
  constexpr int kRounds = 60;
  std::vector<cudaStream_t> streams;
  std::vector<cudaEvent_t> events;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(new_stream());
    events.push_back(new_event());
  }
  auto* data = device_array(std::vector<int>(4, 0));
  EXPECT_CUDA(cudaStreamSynchronize(stream_));
  for (int i = 0; i < kStreams * kRounds; ++i) {  // a chain through all of them
    stream_ = streams[i % kStreams];
    if (i > 0) {
      EXPECT_CUDA(cudaStreamWaitEvent(stream_, events[(i - 1) % kStreams]));
    }
    EXPECT_CUDA(launch(1, 4, 0, add_to, data, 1));
    EXPECT_CUDA(cudaEventRecord(events[i % kStreams], stream_));
  }
  EXPECT_EQ(host_array(data, 4), std::vector<int>(4, kStreams * kRounds));
}

TEST_F(Streams, DeviceSynchronizeWaitsForAllOfADevice) {
  std::atomic<int> done{0};
  cudaStream_t other = new_stream();
  for (cudaStream_t stream : {stream_, other}) {
    submit(stream, "sleep", [&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      ++done;
    });
  }
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT_EQ(done, 2);
}

TEST_F(Streams, FailedOperationsKillTheDevice) {
  submit(stream_, "library call", [] { fail("called in the wrong order"); });
  bool ran = false;
  submit(stream_, "next", [&] { ran = true; });
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorLaunchFailure);
  ASSERT_EQ(failures_.size(), 1u);
  EXPECT_NE(failures_[0].find("called in the wrong order"), std::string::npos);
  EXPECT_FALSE(ran);
  EXPECT_EQ(submit(stream_, "more", [] {}), cudaErrorLaunchFailure);
}

TEST_F(Streams, StandstillsAreReported) {
  Gate gate(stream_);
  cudaStream_t other = new_stream();
  submit(other, "all reduce", [] { Waiting waiting("rank 1 of 2"); });
  cudaEvent_t event = new_event();
  EXPECT_CUDA(cudaEventRecord(event, stream_));
  EXPECT_CUDA(cudaStreamWaitEvent(other, event));
  std::string report;
  set_stall_handler(0.1, [&](const std::string& message) {
    report = message;
    gate.open();
  });
  EXPECT_CUDA(cudaStreamSynchronize(other));
  set_stall_handler(60, {});
  EXPECT_NE(report.find(": gate; "), std::string::npos) << report;
  EXPECT_NE(report.find(": cudaStreamWaitEvent; 1 operations not done"), std::string::npos) << report;
}

TEST_F(Streams, HandlesThatAreNone) {
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventRecord(nullptr, stream_), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(submit(nullptr, "x", [] {}), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaMemsetAsync(nullptr, 0, 4, stream_), cudaErrorInvalidValue);
}

}  // namespace

}  // namespace emulator
