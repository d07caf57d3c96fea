#include <cstring>

#include "core/ops/elementwise.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/local_transfers.h"

namespace trireme {

namespace {

class FinishedWork final : public Work {
 public:
  void wait(Stream&) override {}
  bool done() override { return true; }
};

// A copy that is queued on a device.
class QueuedWork final : public Work {
 public:
  explicit QueuedWork(std::unique_ptr<Event> copied) : copied_(std::move(copied)) {}
  void wait(Stream& stream) override {
    if (stream.asynchronous()) {
      stream.wait(*copied_);
    } else {
      copied_->synchronize();
    }
  }
  bool done() override { return copied_->done(); }

 private:
  std::unique_ptr<Event> copied_;
};

void copy_on_host(const Tensor& from, const Tensor& to, int64_t bytes) {
  if (bytes == 0 || from.raw() == to.raw()) return;
  TRIREME_CHECK(from.device().type == DeviceType::cpu && to.device().type == DeviceType::cpu);
  std::memmove(to.raw(), from.raw(), static_cast<size_t>(bytes));
}

// The first `n` elements.
void copy_front(const Tensor& from, const Tensor& to, int64_t n, Stream& stream) {
  if (n == 0 || from.raw() == to.raw()) return;
  if (from.device().type == DeviceType::cpu) return copy_on_host(from, to, n * dtype_bytes(from.dtype()));
  Tensor target = to.flat_slice(0, {n});
  ops::copy(stream, from.flat_slice(0, {n}), target);
}

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator(const std::string& name, FlightRecorder& recorder) : Communicator(0, 1, name, recorder) {}
  std::string backend() const override { return "self"; }

 protected:
  WorkHandle submit(CommCall call, Stream& stream) override {
    for (const int64_t id : call.record_ids) recorder().mark_started(id);
    switch (call.op) {
      case CommOp::reduce_scatter:
      case CommOp::all_gather: copy_front(call.input, call.output, call.input.numel(), stream); break;
      case CommOp::all_to_all:
      case CommOp::all_to_all_v:
        if (call.send_counts[0] != call.recv_counts[0]) {
          throw BugError({.what = "all_to_all_v on group " + name() + ": the counts for the rank itself differ"});
        }
        copy_front(call.input, call.output, call.send_counts[0], stream);
        break;
      case CommOp::send:
        for (const auto& [from, to] : local_transfers(call, /*rank=*/0)) copy_front(from, to, from.numel(), stream);
        break;
      default: break;
    }
    for (const int64_t id : call.record_ids) recorder().mark_finished(id);
    if (stream.asynchronous()) return std::make_shared<QueuedWork>(stream.record());
    return std::make_shared<FinishedWork>();
  }

  std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) override {
    return ranks.empty() ? nullptr : make_self_communicator(name, recorder());
  }
};

}  // namespace

std::vector<std::pair<Tensor, Tensor>> local_transfers(const CommCall& call, int rank) {
  std::vector<Tensor> sends;
  std::vector<Tensor> recvs;
  for (const Transfer& t : call.transfers) {
    if (t.peer == rank) (t.kind == Transfer::Kind::send ? sends : recvs).push_back(t.tensor);
  }
  bool fits = sends.size() == recvs.size();
  for (size_t i = 0; fits && i < sends.size(); ++i) fits = sends[i].bytes() == recvs[i].bytes();
  if (!fits) {
    throw BugError(
        {.what = "sends and receives of rank " + std::to_string(rank) + " with itself don't fit: " + call.str()});
  }
  std::vector<std::pair<Tensor, Tensor>> pairs;
  for (size_t i = 0; i < sends.size(); ++i) pairs.emplace_back(std::move(sends[i]), std::move(recvs[i]));
  return pairs;
}

void run_local_transfers(const CommCall& call, int rank) {
  for (const auto& [from, to] : local_transfers(call, rank)) copy_on_host(from, to, from.bytes());
}

std::unique_ptr<Communicator> make_self_communicator(const std::string& name, FlightRecorder& recorder) {
  return std::make_unique<SelfCommunicator>(name, recorder);
}

}  // namespace trireme
