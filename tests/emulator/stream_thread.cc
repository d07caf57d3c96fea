#include "tests/emulator/stream_thread.h"

#include <thread>

#include "tests/emulator/api.h"
#include "tests/emulator/fault.h"
#include "tests/emulator/race.h"
#include "tests/emulator/settings.h"

CUstream_st::CUstream_st(int device_in, int number_in)
    : device(device_in), number(number_in), done_token(emulator::race::new_token()) {
  emulator::tallies().streams += 1;
}

CUstream_st::~CUstream_st() {
  magic = 0;
  emulator::race::delete_token(done_token);
}

namespace emulator {

namespace {

constexpr int kSpins = 200;  // of a thread without work before it sleeps

thread_local StreamThread* this_thread = nullptr;

struct IdleThreads {
  HiddenMutex mutex;
  std::vector<StreamThread*> threads;
};

IdleThreads& idle_threads() {
  static IdleThreads* all = new IdleThreads;
  return *all;
}

}  // namespace

StreamThread* StreamThread::current() { return this_thread; }

// Gives the stream to a thread.
void serve(Ref<Stream> stream) {
  StreamThread* thread = nullptr;
  {
    HiddenLock lock(idle_threads().mutex);
    if (!idle_threads().threads.empty()) {
      thread = idle_threads().threads.back();
      idle_threads().threads.pop_back();
    }
  }
  if (thread != nullptr) {
    thread->stream_ = std::move(stream);
    thread->has_stream_.store(1);
    futex_wake(thread->has_stream_, 1);
    return;
  }
  thread = new StreamThread;
  thread->stream_ = std::move(stream);
  thread->has_stream_.store(1);
  std::thread([thread] { thread->main(); }).detach();
}

void StreamThread::main() {
  this_thread = this;
  race::ignore_begin();
  give_fault_stack();
  for (;;) {
    while (has_stream_.load() == 0) futex_wait(has_stream_, 0);
    serve_stream();
    has_stream_.store(0);
    stream_ = {};
    HiddenLock lock(idle_threads().mutex);
    idle_threads().threads.push_back(this);
  }
}

// False when the stream was destroyed and nothing is left to do.
bool StreamThread::take_batch(std::vector<std::unique_ptr<Operation>>& batch) {
  Stream& stream = *stream_;
  for (bool patient = false;; patient = !patient) {
    uint32_t seen;
    {
      HiddenLock lock(stream.mutex);
      stream.sleeping = false;
      if (!stream.queue.empty()) {
        batch.swap(stream.queue);
        return true;
      }
      if (stream.destroyed) return false;
      seen = stream.wake.load();
      stream.sleeping = patient;
    }
    if (patient) {
      futex_wait(stream.wake, seen);
    } else {
      for (int i = 0; i < kSpins && stream.wake.load(std::memory_order_relaxed) == seen; ++i) __builtin_ia32_pause();
    }
  }
}

void StreamThread::serve_stream() {
  std::vector<std::unique_ptr<Operation>> batch;
  while (take_batch(batch)) {
    for (std::unique_ptr<Operation>& operation : batch) {
      race::acquire(operation.get());
      run(*operation);
      operation.reset();
      race::release(stream_->done_token);
      tallies().operations.fetch_add(1, std::memory_order_relaxed);
      // Whoever has waited for the last operation finds device memory closed.
      if (&operation == &batch.back() && queue_is_empty()) access_.drop();
      stream_->done.advance();
    }
    batch.clear();
  }
}

bool StreamThread::queue_is_empty() {
  HiddenLock lock(stream_->mutex);
  return stream_->queue.empty();
}

void StreamThread::run(Operation& operation) {
  if (device_error(stream_->device) != cudaSuccess && !operation.always()) return;
  {
    HiddenLock lock(stream_->mutex);
    stream_->running = operation.name();
  }
  access_.set(operation.devices());
  try {
    const race::Seen seen;
    operation.run(*this);
  } catch (const OperationFailed& failed) {
    set_device_error(stream_->device, failed.error);
    report_failure("cuda:" + std::to_string(stream_->device) + ", stream " + std::to_string(stream_->number) + ": " +
                   failed.message);
  }
  HiddenLock lock(stream_->mutex);
  stream_->running = nullptr;
}

void StreamThread::run_nested(Operation& operation) {
  if (device_error(stream_->device) != cudaSuccess) return;
  access_.set(operation.devices());
  operation.run(*this);
}

void enqueue(Stream& stream, std::unique_ptr<Operation> operation) {
  bool start = false;
  bool sleeping = false;
  race::release(operation.get());
  {
    HiddenLock lock(stream.mutex);
    if (stream.capture) {
      stream.capture->operations.push_back(std::move(operation));
      return;
    }
    stream.queue.push_back(std::move(operation));
    ++stream.num_submitted;
    stream.wake.fetch_add(1, std::memory_order_relaxed);
    start = !stream.has_thread;
    stream.has_thread = true;
    sleeping = stream.sleeping;
    stream.sleeping = false;
  }
  if (start) {
    stream.take();
    serve(Ref<Stream>::adopt(&stream));
  } else if (sleeping) {
    futex_wake(stream.wake, 1);
  }
}

void wait_for_stream(Stream& stream) {
  uint64_t target;
  {
    HiddenLock lock(stream.mutex);
    target = stream.num_submitted;
  }
  wait_watched(stream.done, target);
  race::acquire(stream.done_token);
  close_idle_devices();
}

}  // namespace emulator
