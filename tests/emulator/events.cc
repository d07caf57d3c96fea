// Events: marks in streams.
#include "tests/emulator/api.h"
#include "tests/emulator/race.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

struct CUevent_st {
  static constexpr uint64_t kMagic = 0x6576656e74bd31ULL;

  std::atomic<uint64_t> magic{kMagic};
  int device = 0;
  bool timed = false;
  emulator::HiddenMutex mutex;
  emulator::Ref<emulator::Mark> mark;         // of the last record; null before the first
  const emulator::Graph* captured = nullptr;  // recorded last while this was being captured
};

namespace emulator {

namespace {

CUevent_st* find_event(cudaEvent_t handle) {
  return handle != nullptr && handle->magic.load() == CUevent_st::kMagic ? handle : nullptr;
}

struct Recorded {
  Ref<Mark> mark;
  const Graph* captured;
};

Recorded last_record(CUevent_st& event) {
  HiddenLock lock(event.mutex);
  return {event.mark, event.captured};
}

cudaError_t record(CUevent_st& event, Stream& stream) {
  if (event.device != stream.device) return cudaErrorInvalidResourceHandle;
  const Graph* captured = nullptr;
  {
    HiddenLock lock(stream.mutex);
    if (stream.capture) captured = &*stream.capture;
  }
  if (captured != nullptr) {  // only a place in the graph
    HiddenLock lock(event.mutex);
    event.captured = captured;
    return cudaSuccess;
  }
  Ref<Mark> mark = Ref<Mark>::adopt(new Mark);
  mark->device = stream.device;
  {
    HiddenLock lock(event.mutex);
    event.captured = nullptr;
    event.mark = mark;
  }
  enqueue(stream, make_record(std::move(mark)));
  return cudaSuccess;
}

cudaError_t wait(Stream& stream, CUevent_st& event) {
  const Recorded last = last_record(event);
  bool capturing;
  {
    HiddenLock lock(stream.mutex);
    capturing = static_cast<bool>(stream.capture);
    if (capturing && last.captured == &*stream.capture) return cudaSuccess;  // its own order says as much
  }
  if (last.captured != nullptr) {
    // A real runtime would make the stream part of the capture.
    return cudaErrorStreamCaptureUnsupported;
  }
  if (capturing) {
    break_capture(stream);
    return cudaErrorStreamCaptureIsolation;
  }
  if (last.mark) enqueue(stream, make_wait(last.mark));
  return cudaSuccess;
}

}  // namespace

}  // namespace emulator

using emulator::api;

extern "C" {

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  *event = nullptr;
  return api("cudaEventCreateWithFlags", [&] {
    *event = new CUevent_st;
    (*event)->device = emulator::current_device();
    (*event)->timed = (flags & cudaEventDisableTiming) == 0;
    emulator::tallies().events += 1;
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const emulator::race::Ignored ignored;
  CUevent_st* found = emulator::find_event(event);
  if (found == nullptr) return emulator::note_error(cudaErrorInvalidResourceHandle);
  found->magic = 0;
  emulator::tallies().events -= 1;
  delete found;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return api("cudaEventRecord", [&] {
    CUevent_st* found = emulator::find_event(event);
    emulator::Stream* where = emulator::find_stream(stream);
    if (found == nullptr || where == nullptr) return cudaErrorInvalidResourceHandle;
    return emulator::record(*found, *where);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  return api("cudaStreamWaitEvent", [&] {
    CUevent_st* found = emulator::find_event(event);
    emulator::Stream* where = emulator::find_stream(stream);
    if (found == nullptr || where == nullptr) return cudaErrorInvalidResourceHandle;
    return emulator::wait(*where, *found);
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return api("cudaEventQuery", [&] {
    CUevent_st* found = emulator::find_event(event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    const emulator::Recorded last = emulator::last_record(*found);
    if (last.captured != nullptr) return cudaErrorCapturedEvent;
    if (!last.mark) return cudaSuccess;
    if (last.mark->reached.value() == 0) return cudaErrorNotReady;
    emulator::race::acquire(last.mark->token);
    return emulator::device_error(found->device);
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return api("cudaEventSynchronize", [&] {
    CUevent_st* found = emulator::find_event(event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    const emulator::Recorded last = emulator::last_record(*found);
    if (last.captured != nullptr) return cudaErrorCapturedEvent;
    if (!last.mark) return cudaSuccess;
    emulator::tallies().host_waits += 1;
    emulator::wait_watched(last.mark->reached, 1);
    emulator::race::acquire(last.mark->token);
    emulator::close_idle_devices();
    return emulator::device_error(found->device);
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = 0;
  return api("cudaEventElapsedTime", [&] {
    CUevent_st* first = emulator::find_event(begin);
    CUevent_st* second = emulator::find_event(end);
    if (first == nullptr || second == nullptr || !first->timed || !second->timed) return cudaErrorInvalidResourceHandle;
    const emulator::Recorded from = emulator::last_record(*first);
    const emulator::Recorded to = emulator::last_record(*second);
    if (!from.mark || !to.mark || from.mark->device != to.mark->device) return cudaErrorInvalidResourceHandle;
    if (from.mark->reached.value() == 0 || to.mark->reached.value() == 0) return cudaErrorNotReady;
    *milliseconds = static_cast<float>((to.mark->seconds - from.mark->seconds) * 1e3);
    return cudaSuccess;
  });
}

}  // extern "C"
