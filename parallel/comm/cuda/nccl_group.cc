#include "parallel/comm/cuda/nccl_group.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <utility>

#include "core/device/cuda/check.h"
#include "parallel/comm/cuda/nccl_bootstrap.h"
#include "parallel/comm/cuda/nccl_check.h"

namespace trireme::cuda {

namespace {

constexpr double kLeaveSeconds = 10;  // for NCCL to close a group; longer, and the group is aborted

// Waits between two looks: none at first, then ever longer.
class Backoff {
 public:
  void wait() {
    if (++looks_ < 64) {
      std::this_thread::yield();
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(std::min(1000, 10 * (looks_ - 63))));
  }

 private:
  int looks_ = 0;
};

bool is_capturing(CudaStream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream.handle(), &status), "ask whether a stream is being captured");
  return status == cudaStreamCaptureStatusActive;
}

}  // namespace

NcclGroup::NcclGroup(const ncclUniqueId& id, NcclMember member, std::unique_ptr<Stream> stream,
                     FlightRecorder& recorder, const NcclOptions& options)
    : member_(std::move(member)), options_(options), recorder_(recorder), stream_(std::move(stream)) {
  this->stream().activate();
  token_ = Tensor::empty(*stream_, {1}, DType::i32, MemoryTag::communication);
  check(cudaMemsetAsync(token_.raw(), 0, static_cast<size_t>(token_.bytes()), this->stream().handle()), "clear memory");
  clock_event_ = stream_->record_time();
  clock_event_->synchronize();
  clock_seconds_ = monotonic_seconds();
  last_poll_ = clock_seconds_;
  try {
    join(id);
  } catch (...) {
    abort_handle();
    throw;
  }
}

NcclGroup::~NcclGroup() {
  close(/*abandon=*/true);
  try {
    stream_->synchronize();  // before the tensors go
  } catch (const Error&) {
    // The device has failed; somebody has told.
  }
}

NcclFailure NcclGroup::failure_of(const std::string& call, const std::string& found, ncclResult_t result) const {
  const MachineError error({.what = "NCCL failed in " + call,
                            .found = found,
                            .where = "host " + host_name() + ", " + stream_->device().str() + ", rank " +
                                     std::to_string(member_.rank) + " of group " + member_.group + " (rank " +
                                     std::to_string(recorder_.rank()) + " of the world)",
                            .hint = "NCCL_DEBUG=INFO, which makes NCCL print what it does"});
  return {result == ncclRemoteError ? ExitCode::peer : ExitCode::machine, error.what()};
}

void NcclGroup::check_call(ncclResult_t result, const std::string& call) const {
  if (result == ncclSuccess || result == ncclInProgress) return;
  failure_of(call, nccl_text(result, comm_), result).raise();
}

void NcclGroup::join(const ncclUniqueId& id) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.commName = member_.group.c_str();
  const std::string call = "ncclCommInitRankConfig";
  check_call(ncclCommInitRankConfig(&comm_, member_.size, id, member_.rank, &config), call);
  settle(call, options_.init_seconds);
}

void NcclGroup::settle(const std::string& call, double seconds) {
  const double deadline = seconds > 0 ? monotonic_seconds() + seconds : FlightRecord::kNotYet;
  Backoff backoff;
  while (true) {
    ncclResult_t state = ncclSuccess;
    check_call(ncclCommGetAsyncError(comm_, &state), call);
    check_call(state, call);
    if (state == ncclSuccess) return;
    if (monotonic_seconds() > deadline) {
      const std::string found = "no end after " + std::to_string(static_cast<int64_t>(seconds)) +
                                " s: another rank is late, or can't be reached through its network";
      failure_of(call, found, ncclRemoteError).raise();
    }
    backoff.wait();
  }
}

NcclCallPtr NcclGroup::submit(CommCall call, Stream& caller) {
  auto work = std::make_shared<NcclCall>();
  work->text = call.str();
  work->record_ids = call.record_ids;
  work->call = std::move(call);
  work->caller = &caller;
  TRIREME_CHECK(!is_capturing(as_cuda(caller)), "a call while its stream is captured into a graph");
  Lock lock(mutex_);
  poll_locked();
  if (failure_) {
    const std::string before = "an earlier call on group " + member_.group + " failed: ";
    work->failure = told_ ? NcclFailure{ExitCode::peer, before + failure_->message} : *failure_;
    told_ = true;
    work->release_tensors();
    return work;
  }
  TRIREME_CHECK(comm_ != nullptr, "a call on a group that was left");
  under_way_.push_back(work);
  try {
    queue(*work, caller);
  } catch (const Error& error) {
    fail(error.code(), error.what());
  }
  return work;
}

void NcclGroup::queue(NcclCall& work, Stream& caller) {
  stream().activate();
  stream_->wait(*caller.record());
  work.start = stream_->record_time();
  const NcclTarget target{comm_, member_.rank, member_.size, stream(), token_};
  queue_local_part(work, target);
  ncclResult_t result = ncclGroupStart();
  if (result == ncclSuccess) {
    try {
      queue_nccl_part(work, target);
    } catch (const NcclRefusal& refusal) {
      const std::string found = nccl_text(refusal.result, comm_);  // before another call of NCCL's has a last error
      ncclGroupEnd();
      failure_of(work.text + ", which calls " + refusal.function, found, refusal.result).raise();
    } catch (...) {
      ncclGroupEnd();
      throw;
    }
    result = ncclGroupEnd();
  }
  check_call(result, work.text);
  settle(work.text, options_.call_seconds);
  queue_last_part(work, target);
  work.end = stream_->record_time();
}

void NcclGroup::wait(NcclCall& call, Stream& stream) {
  if (stream.device().type == DeviceType::cpu) {
    Backoff backoff;
    while (!done(call)) backoff.wait();
  }
  Lock lock(mutex_);
  if (call.failure) call.failure->raise();
  if (stream.device().type == DeviceType::cpu) return;
  stream.wait(*call.end);
  // Whatever gets this memory next is queued behind the call on this stream.
  if (&stream == call.caller) call.release_tensors();
}

bool NcclGroup::done(NcclCall& call) {
  Lock lock(mutex_);
  poll_locked();
  return call.finished || call.failure.has_value();
}

bool NcclGroup::poll() {
  Lock lock(mutex_);
  poll_locked();
  return !under_way_.empty();
}

void NcclGroup::poll_locked() {
  if (failure_ || comm_ == nullptr) return;
  try {
    // Calls also end when NCCL gives them up, and it tells of that before they do: what had ended before the question
    // whether all is well, has ended well.
    size_t num_ended = 0;
    while (num_ended < under_way_.size() && under_way_[num_ended]->end->done()) ++num_ended;
    ncclResult_t state = ncclSuccess;
    const std::string call = under_way_.empty() ? "group " + member_.group : under_way_.front()->text;
    check_call(ncclCommGetAsyncError(comm_, &state), call);
    check_call(state, call);
    note_ends(num_ended);
    note_start();
    last_poll_ = monotonic_seconds();
  } catch (const Error& error) {
    fail(error.code(), error.what());
  }
}

void NcclGroup::note_start() {
  if (under_way_.empty()) return;
  NcclCall& front = *under_way_.front();
  const double now = monotonic_seconds();
  if (!front.started) {
    if (!front.start->done()) return;
    front.started = true;
    front.turn_seconds = now;
    for (const int64_t id : front.record_ids) recorder_.mark_started(id, device_seconds(*front.start));
  }
  if (options_.call_seconds <= 0 || now - front.turn_seconds < options_.call_seconds) return;
  throw PeerError({.what = front.text + " on group " + member_.group + " is unfinished after " +
                           std::to_string(static_cast<int64_t>(now - front.turn_seconds)) +
                           " s; another rank is late or gone"});
}

void NcclGroup::note_ends(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    NcclCall& front = *under_way_.front();
    if (!front.started) {
      for (const int64_t id : front.record_ids) recorder_.mark_started(id, device_seconds(*front.start));
    }
    const double end = device_seconds(*front.end);
    for (const int64_t id : front.record_ids) recorder_.mark_finished(id, end);
    clock_event_ = front.end;
    clock_seconds_ = end;
    front.finished = true;
    front.release_tensors();
    under_way_.pop_front();
  }
}

// The event's time by the device's clock, held to when the host can have seen it.
double NcclGroup::device_seconds(const Event& event) {
  const double at = clock_seconds_ + event.seconds_since(*clock_event_);
  return std::clamp(at, last_poll_, std::max(last_poll_, monotonic_seconds()));
}

void NcclGroup::fail(ExitCode code, const std::string& message) {
  failure_ = NcclFailure{code, message};
  told_ = !under_way_.empty();
  abort_handle();
  for (const NcclCallPtr& call : under_way_) {
    call->failure = *failure_;
    abandoned_.push_back(call);
  }
  under_way_.clear();
}

void NcclGroup::abort_handle() {
  if (comm_ != nullptr) ncclCommAbort(comm_);
  comm_ = nullptr;
}

void NcclGroup::close(bool abandon) {
  Backoff backoff;
  while (!abandon && poll()) backoff.wait();
  Lock lock(mutex_);
  if (comm_ != nullptr && !abandon) {
    try {
      check_call(ncclCommFinalize(comm_), "ncclCommFinalize");
      settle("ncclCommFinalize", kLeaveSeconds);
      ncclCommDestroy(comm_);
      comm_ = nullptr;
    } catch (const Error& error) {
      // The work is done; only the leaving isn't.
      std::fprintf(stderr, "%s\n", error.what());
    }
  }
  abort_handle();
}

}  // namespace trireme::cuda
