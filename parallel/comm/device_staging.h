// Device tensors on their way through a backend of host memory: copied to pinned memory before the call, and from it
// after.
//
// The caller makes a StagedCall, which queues the downloads behind its stream's work. The communication thread asks for
// `downloaded`, runs the call on the host tensors, says `upload` and asks for `uploaded`; the call is done then.
// Thread safety: as said at each function; one thread at a time.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "parallel/comm/communicator.h"

namespace trireme {

// The streams of a communicator for these copies.
class StagingStreams {
 public:
  // Like `stream`, whose allocators and pool outlive this.
  explicit StagingStreams(Stream& stream);

  Stream& down() { return *down_; }  // used by the caller
  Stream& up() { return *up_; }      // used by the communication thread

 private:
  std::unique_ptr<Stream> down_;
  std::unique_ptr<Stream> up_;
};

class StagedCall {
 public:
  // Puts pinned host tensors into the place of the call's tensors. By the caller.
  StagedCall(CommCall& call, int rank, Stream& caller, StagingStreams& streams);
  // Waits for copies under way.
  ~StagedCall();
  StagedCall(const StagedCall&) = delete;
  StagedCall& operator=(const StagedCall&) = delete;

  // Whether the call can start: its inputs are on the host, and nothing before it on the caller's stream needs its
  // outputs any more. By the communication thread, as the rest.
  bool downloaded() { return downloaded_->done(); }
  void upload();
  bool uploaded() { return uploaded_->done(); }

 private:
  struct Copy {
    Tensor host;
    Tensor device;
  };
  Tensor stage(const Tensor& device, bool down, bool up);

  StagingStreams& streams_;
  std::vector<Copy> downloads_;
  std::vector<Copy> uploads_;
  std::unique_ptr<Event> downloaded_;
  std::unique_ptr<Event> uploaded_;
};

}  // namespace trireme
