// All streams: finding them, waiting for them, and saying what they do when nothing gets on.
#include <algorithm>
#include <unordered_set>

#include "tests/emulator/api.h"
#include "tests/emulator/race.h"
#include "tests/emulator/settings.h"
#include "tests/emulator/stream_thread.h"

namespace emulator {

namespace {

struct Streams {
  HiddenMutex mutex;
  std::vector<Ref<Stream>> living;
  int num_made = 0;
};

Streams& streams() {
  static Streams* all = new Streams;
  return *all;
}

std::vector<Ref<Stream>> living_streams() {
  HiddenLock lock(streams().mutex);
  return streams().living;
}

std::string describe_streams() {
  std::string text;
  for (const Ref<Stream>& stream : living_streams()) {
    HiddenLock lock(stream->mutex);
    const uint64_t left = stream->num_submitted - stream->done.value();
    if (left == 0) continue;
    text += "\n  cuda:" + std::to_string(stream->device) + ", stream " + std::to_string(stream->number) + ": ";
    text += stream->running != nullptr ? stream->running : "between two operations";
    if (!stream->waits_for.empty()) text += ", waits for " + stream->waits_for;
    text += "; " + std::to_string(left) + " operations not done";
  }
  return text.empty() ? "\n  no stream has work" : text;
}

}  // namespace

Ref<Stream> make_stream(int device) {
  HiddenLock lock(streams().mutex);
  Ref<Stream> stream = Ref<Stream>::adopt(new Stream(device, ++streams().num_made));
  streams().living.push_back(stream);
  return stream;
}

Stream* find_stream(cudaStream_t handle) {
  return handle != nullptr && handle->magic.load() == Stream::kMagic ? handle : nullptr;
}

void destroy_stream(Stream& stream) {
  bool sleeping;
  Ref<Stream> last;  // outlives the locks
  {
    HiddenLock lock(streams().mutex);
    auto& all = streams().living;
    const auto it = std::find_if(all.begin(), all.end(), [&](const Ref<Stream>& other) { return &*other == &stream; });
    last = std::move(*it);
    all.erase(it);
  }
  {
    HiddenLock lock(stream.mutex);
    stream.destroyed = true;
    stream.magic = 0;
    stream.wake.fetch_add(1);
    sleeping = stream.sleeping;
  }
  if (sleeping) futex_wake(stream.wake, 1);
  tallies().streams -= 1;
}

void wait_for_device(int device) {
  for (const Ref<Stream>& stream : living_streams()) {
    if (stream->device == device) wait_for_stream(*stream);
  }
}

bool any_capture(int device) {
  for (const Ref<Stream>& stream : living_streams()) {
    HiddenLock lock(stream->mutex);
    if (stream->device == device && stream->capture) return true;
  }
  return false;
}

bool any_strict_capture(int device) {
  for (const Ref<Stream>& stream : living_streams()) {
    HiddenLock lock(stream->mutex);
    if (stream->device == device && stream->capture && !stream->capture_relaxed) return true;
  }
  return false;
}

void wait_watched(Progress& progress, uint64_t target) {
  const double limit = settings().stall_seconds;
  const double look = std::min(1.0, limit / 4);
  double since = -1;
  int64_t seen = -1;
  while (!progress.wait(target, look)) {
    const int64_t now = tallies().operations;
    if (now != seen) {
      seen = now;
      since = now_seconds();
    } else if (since >= 0 && now_seconds() - since >= limit) {
      report_stall("no stream has finished an operation for " + std::to_string(static_cast<int>(limit)) + " seconds" +
                   describe_streams());
      since = -1;  // once for each standstill
    }
  }
}

int stream_device(cudaStream_t stream) {
  const Stream* found = find_stream(stream);
  return found != nullptr ? found->device : -1;
}

bool is_capturing(cudaStream_t stream) {
  Stream* found = find_stream(stream);
  if (found == nullptr) return false;
  HiddenLock lock(found->mutex);
  return static_cast<bool>(found->capture);
}

cudaError_t submit(cudaStream_t stream, const char* name, std::function<void()> op) {
  const race::Ignored ignored;
  Stream* found = find_stream(stream);
  if (found == nullptr) return cudaErrorInvalidResourceHandle;
  const cudaError_t error = device_error(found->device);
  if (error != cudaSuccess) return error;
  enqueue(*found, make_host(name, std::move(op)));
  return cudaSuccess;
}

void fail(const std::string& message) { throw OperationFailed{message}; }

Waiting::Waiting(const std::string& what) {
  Stream& stream = StreamThread::current()->stream();
  HiddenLock lock(stream.mutex);
  stream.waits_for = what;
}

Waiting::~Waiting() {
  Stream& stream = StreamThread::current()->stream();
  HiddenLock lock(stream.mutex);
  stream.waits_for.clear();
}

}  // namespace emulator

using emulator::api;
using emulator::Stream;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int, int) {
  *stream = nullptr;
  return api("cudaStreamCreateWithPriority", [&] {
    *stream = &*emulator::make_stream(emulator::current_device());
    return cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const emulator::race::Ignored ignored;
  Stream* found = emulator::find_stream(stream);
  if (found == nullptr) return emulator::note_error(cudaErrorInvalidResourceHandle);
  emulator::destroy_stream(*found);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return api("cudaStreamSynchronize", [&] {
    Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (emulator::break_capture(*found)) return cudaErrorStreamCaptureUnsupported;
    emulator::tallies().host_waits += 1;
    emulator::wait_for_stream(*found);
    return emulator::device_error(found->device);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return api("cudaStreamQuery", [&] {
    Stream* found = emulator::find_stream(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (emulator::break_capture(*found)) return cudaErrorStreamCaptureUnsupported;
    uint64_t submitted;
    {
      emulator::HiddenLock lock(found->mutex);
      submitted = found->num_submitted;
    }
    if (found->done.value() < submitted) return cudaErrorNotReady;
    emulator::wait_for_stream(*found);
    return emulator::device_error(found->device);
  });
}

}  // extern "C"
