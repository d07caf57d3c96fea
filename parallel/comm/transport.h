// How the ranks of one group exchange host memory: through shared memory or by messages.
//
// A transport turns a call into an operation that the communication thread advances in steps; no step waits.
#pragma once

#include <memory>

#include "parallel/comm/communicator.h"

namespace trireme {

class HostOp {
 public:
  virtual ~HostOp() = default;
  // Does some of what can be done without waiting; returns whether anything was. Throws what the call fails with.
  virtual bool step() = 0;
  virtual bool finished() const = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // The call outlives the operation. One at a time, in the order of the rank's calls.
  virtual std::unique_ptr<HostOp> start(const CommCall& call) = 0;
  // Whether steps become possible without the doorbell being rung, so that somebody must look now and then.
  virtual bool needs_polling() const = 0;
};

}  // namespace trireme
