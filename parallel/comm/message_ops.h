// The operations of the message transport.
#pragma once

#include <memory>

#include "parallel/comm/transport.h"

namespace trireme {

struct MessageGroup;

// `group` outlives the operation.
std::unique_ptr<HostOp> make_message_collective(const MessageGroup& group, const CommCall& call);
std::unique_ptr<HostOp> make_message_transfers(const MessageGroup& group, const CommCall& call);

}  // namespace trireme
