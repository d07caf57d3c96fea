#include <cstring>

#include "parallel/comm/communicator.h"
#include "parallel/comm/local_transfers.h"

namespace trireme {

namespace {

class FinishedWork final : public Work {
 public:
  void wait(Stream&) override {}
  bool done() override { return true; }
};

void copy(const Tensor& from, const Tensor& to, int64_t bytes) {
  if (bytes == 0 || from.raw() == to.raw()) return;
  TRIREME_CHECK(from.device().type == DeviceType::cpu && to.device().type == DeviceType::cpu);
  std::memmove(to.raw(), from.raw(), static_cast<size_t>(bytes));
}

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator(const std::string& name, FlightRecorder& recorder) : Communicator(0, 1, name, recorder) {}
  std::string backend() const override { return "self"; }

 protected:
  WorkHandle submit(CommCall call, Stream&) override {
    for (const int64_t id : call.record_ids) recorder().mark_started(id);
    switch (call.op) {
      case CommOp::reduce_scatter:
      case CommOp::all_gather: copy(call.input, call.output, call.input.bytes()); break;
      case CommOp::all_to_all:
      case CommOp::all_to_all_v:
        if (call.send_counts[0] != call.recv_counts[0]) {
          throw BugError({.what = "all_to_all_v on group " + name() + ": the counts for the rank itself differ"});
        }
        copy(call.input, call.output, call.send_counts[0] * dtype_bytes(call.input.dtype()));
        break;
      case CommOp::send: run_local_transfers(call, /*rank=*/0); break;
      default: break;
    }
    for (const int64_t id : call.record_ids) recorder().mark_finished(id);
    return std::make_shared<FinishedWork>();
  }

  std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) override {
    return ranks.empty() ? nullptr : make_self_communicator(name, recorder());
  }
};

}  // namespace

void run_local_transfers(const CommCall& call, int rank) {
  std::vector<const Transfer*> sends;
  std::vector<const Transfer*> recvs;
  for (const Transfer& t : call.transfers) {
    if (t.peer == rank) (t.kind == Transfer::Kind::send ? sends : recvs).push_back(&t);
  }
  bool fits = sends.size() == recvs.size();
  for (size_t i = 0; fits && i < sends.size(); ++i) fits = sends[i]->tensor.bytes() == recvs[i]->tensor.bytes();
  if (!fits) {
    throw BugError(
        {.what = "sends and receives of rank " + std::to_string(rank) + " with itself don't fit: " + call.str()});
  }
  for (size_t i = 0; i < sends.size(); ++i) copy(sends[i]->tensor, recvs[i]->tensor, sends[i]->tensor.bytes());
}

std::unique_ptr<Communicator> make_self_communicator(const std::string& name, FlightRecorder& recorder) {
  return std::make_unique<SelfCommunicator>(name, recorder);
}

}  // namespace trireme
