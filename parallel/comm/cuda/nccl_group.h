// One rank's side of one NCCL group: the handle, the stream, the calls under way, what went wrong.
//
// NCCL is used without blocking: it takes a call in the background, and the group is asked until it has. After the
// first failure the group is aborted, which frees its stream, and never used again.
// Thread safety: all calls may come from any thread; `submit` from one at a time.
#pragma once

#include <nccl.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "parallel/comm/cuda/nccl_call.h"
#include "parallel/comm/cuda/nccl_communicator.h"

namespace trireme::cuda {

using NcclCallPtr = std::shared_ptr<NcclCall>;

struct NcclMember {
  std::string group;
  int rank = 0;
  int size = 1;
};

class NcclGroup {
 public:
  // Joins the group of `id`; returns when all ranks have. `stream` becomes the group's own.
  NcclGroup(const ncclUniqueId& id, NcclMember member, std::unique_ptr<Stream> stream, FlightRecorder& recorder,
            const NcclOptions& options);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // Queues the call behind what `caller` has queued. What goes wrong is found in the returned call.
  NcclCallPtr submit(CommCall call, Stream& caller);
  // Makes `stream` (a CPU stream: the host) wait for the call. Throws what the call failed with.
  void wait(NcclCall& call, Stream& stream);
  // Whether the call is over, well or badly.
  bool done(NcclCall& call);

  // Looks at what has happened: notes starts and ends, finds errors and calls that stand still. Returns whether calls
  // are under way.
  bool poll();

  // Leaves the group: when the calls under way are over, or at once with `abandon`. Nothing is submitted afterwards.
  void close(bool abandon);

 private:
  using Lock = std::unique_lock<std::mutex>;

  void join(const ncclUniqueId& id);
  void queue(NcclCall& work, Stream& caller);
  // Asks until NCCL has taken what it was given. Throws as check_call, and PeerError when that takes too long.
  void settle(const std::string& call, double seconds);
  void poll_locked();
  void note_start();
  void note_ends(size_t count);
  void fail(ExitCode code, const std::string& message);
  void abort_handle();
  double device_seconds(const Event& event);
  NcclFailure failure_of(const std::string& call, const std::string& found, ncclResult_t result) const;
  // Throws MachineError, or PeerError for what another rank has caused.
  void check_call(ncclResult_t result, const std::string& call) const;
  CudaStream& stream() { return as_cuda(*stream_); }

  const NcclMember member_;
  const NcclOptions options_;
  FlightRecorder& recorder_;
  const std::unique_ptr<Stream> stream_;

  std::mutex mutex_;
  ncclComm_t comm_ = nullptr;  // null: not joined, failed or left
  std::optional<NcclFailure> failure_;
  bool told_ = false;                  // some call has failed with it
  std::deque<NcclCallPtr> under_way_;  // oldest first
  std::deque<NcclCallPtr> abandoned_;  // of a failed group; their tensors are kept until the stream is idle
  Tensor token_;                       // i32[1] for barriers

  // The device's clock in the host's: an event and when it was reached.
  std::shared_ptr<Event> clock_event_;
  double clock_seconds_ = 0;
  double last_poll_ = 0;
};

}  // namespace trireme::cuda
