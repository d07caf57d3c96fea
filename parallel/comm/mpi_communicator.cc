#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "parallel/comm/mpi_engine.h"
#include "parallel/comm/shm_transport.h"

namespace trireme {

namespace {

class MpiWork final : public Work {
 public:
  MpiWork(std::shared_ptr<MpiEngine> engine, std::shared_ptr<HostGroup> group, HostCallPtr call)
      : engine_(std::move(engine)), group_(std::move(group)), call_(std::move(call)) {}
  ~MpiWork() override {
    // The caller's tensors are about to go while the call may be under way.
    if (std::uncaught_exceptions() > 0 && !call_->done()) engine_->host().cancel(group_, "this rank failed");
  }
  void wait(Stream&) override { call_->wait(); }
  bool done() override { return call_->done(); }

 private:
  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<HostGroup> group_;
  HostCallPtr call_;
};

// What a rank tells the parent's others when a group is made.
struct GroupTicket {
  int leader = -1;   // world rank of the first of the rank's own group; -1: in none
  int process = -1;  // where the group's shared memory is, from the leader
  int descriptor = -1;
  int64_t next_group_id = 0;
};

// The making of a group, in the two halves before and after the tickets are exchanged.
class GroupMaker {
 public:
  // `world_ranks` is empty for a rank that is in no group.
  GroupMaker(MpiEngine& engine, std::vector<int> world_ranks)
      : engine_(engine),
        world_ranks_(std::move(world_ranks)),
        layout_(static_cast<int>(std::max<size_t>(1, world_ranks_.size())), engine.options().chunk_bytes) {
    const bool one_node =
        std::all_of(world_ranks_.begin(), world_ranks_.end(), [&](int r) { return engine.on_my_node(r); });
    wants_memory_ = world_ranks_.size() > 1 && one_node;
    if (wants_memory_ && leads()) memory_ = SharedSegment::create(layout_.total_bytes);
  }

  GroupTicket ticket() const {
    return {.leader = world_ranks_.empty() ? -1 : world_ranks_[0],
            .process = static_cast<int>(::getpid()),
            .descriptor = memory_ ? memory_->descriptor() : -1,
            .next_group_id = engine_.next_group_id.load()};
  }

  // `tickets` are the parent's, `members` the places of this group's ranks among them.
  void read(std::span<const GroupTicket> tickets, std::span<const int> members) {
    for (const GroupTicket& t : tickets) id_ = std::max(id_, t.next_group_id);
    engine_.next_group_id.store(id_ + 1);
    for (const int member : members) {
      TRIREME_CHECK(tickets[static_cast<size_t>(member)].leader == world_ranks_[0], "split with lists that differ");
    }
    if (!wants_memory_ || leads()) return;
    const GroupTicket& leader = tickets[static_cast<size_t>(members[0])];
    if (leader.descriptor >= 0) memory_ = SharedSegment::open(leader.process, leader.descriptor, layout_.total_bytes);
  }

  bool ready() const { return !wants_memory_ || memory_ != nullptr; }

  // `all_ready`: of the parent's ranks. Otherwise all fall back to messages.
  std::unique_ptr<Transport> transport(int rank, bool all_ready) {
    if (memory_) memory_->close_descriptor();
    if (!wants_memory_ || !all_ready) {
      memory_.reset();
      std::unique_ptr<Transport> made;
      engine_.host().run([&] {
        made = make_message_transport(engine_.messages(), id_, rank, world_ranks_, engine_.options().chunk_bytes);
      });
      return made;
    }
    std::vector<Doorbell*> doorbells;
    for (const int r : world_ranks_) doorbells.push_back(engine_.doorbell_of(r));
    return std::make_unique<ShmTransport>(rank, layout_, memory_->data(), std::move(doorbells));
  }

  std::unique_ptr<SharedSegment> take_memory() { return std::move(memory_); }

 private:
  bool leads() const { return world_ranks_[0] == engine_.places().rank; }

  MpiEngine& engine_;
  const std::vector<int> world_ranks_;
  const ShmLayout layout_;
  bool wants_memory_ = false;
  std::unique_ptr<SharedSegment> memory_;
  int64_t id_ = 0;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiEngine> engine, std::vector<int> world_ranks, int rank, const std::string& name,
                  FlightRecorder& recorder, GroupMaker& maker, bool all_ready)
      : Communicator(rank, static_cast<int>(world_ranks.size()), name, recorder),
        engine_(std::move(engine)),
        world_ranks_(std::move(world_ranks)),
        group_(std::make_shared<HostGroup>()) {
    group_->transport = maker.transport(rank, all_ready);
    group_->recorder = &recorder;
    memory_ = maker.take_memory();
    engine_->host().add_group(group_);
  }

  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() > 0) engine_->host().cancel(group_, "this rank failed");
    engine_->host().remove_group(group_);
  }

  std::string backend() const override { return "mpi"; }

 protected:
  WorkHandle submit(CommCall call, Stream& stream) override {
    std::unique_ptr<StagedCall> staged;
    if (call.device().type != DeviceType::cpu) {
      TRIREME_CHECK(call.device() == stream.device(), "tensors on another device than the stream");
      if (staging_ == nullptr) staging_ = std::make_unique<StagingStreams>(stream);
      staged = std::make_unique<StagedCall>(call, rank(), stream, *staging_);
    }
    auto host_call = std::make_shared<HostCall>(std::move(call), std::move(staged));
    engine_->host().submit(group_, host_call);
    return std::make_shared<MpiWork>(engine_, group_, std::move(host_call));
  }

  std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) override {
    std::vector<int> members;
    for (const int r : ranks) members.push_back(world_ranks_[static_cast<size_t>(r)]);
    GroupMaker maker(*engine_, members);
    GroupTicket mine = maker.ticket();
    std::vector<GroupTicket> tickets(static_cast<size_t>(size()));
    run_unrecorded({.op = CommOp::all_gather,
                    .input = Tensor::borrow(&mine, {sizeof(GroupTicket)}, DType::u8),
                    .output = Tensor::borrow(tickets.data(), {size() * int64_t{sizeof(GroupTicket)}}, DType::u8)});
    maker.read(tickets, ranks);
    int32_t ready = maker.ready() ? 1 : 0;
    const Tensor flag = Tensor::borrow(&ready, {1}, DType::i32);
    run_unrecorded({.op = CommOp::all_reduce, .reduce = ReduceOp::min, .input = flag, .output = flag});
    if (ranks.empty()) return nullptr;
    if (ranks.size() == 1) return make_self_communicator(name, recorder());
    const int new_rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank()) - ranks.begin());
    return std::make_unique<MpiCommunicator>(engine_, std::move(members), new_rank, name, recorder(), maker,
                                             ready != 0);
  }

 private:
  void run_unrecorded(CommCall call) {
    const auto host_call = std::make_shared<HostCall>(std::move(call));
    engine_->host().submit(group_, host_call);
    host_call->wait();
  }

  const std::shared_ptr<MpiEngine> engine_;
  const std::vector<int> world_ranks_;  // of the members
  std::shared_ptr<HostGroup> group_;
  std::unique_ptr<SharedSegment> memory_;
  std::shared_ptr<StagingStreams> staging_;
};

template <class T>
std::vector<T> gather(MpiEngine& engine, const T& mine) {
  const std::vector<std::byte> bytes = engine.gather_world(std::as_bytes(std::span(&mine, 1)));
  std::vector<T> all(bytes.size() / sizeof(T));
  std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_world(const std::shared_ptr<MpiEngine>& engine, FlightRecorder& recorder,
                                             const std::string& name) {
  std::vector<int> all(static_cast<size_t>(engine->places().size));
  for (size_t r = 0; r < all.size(); ++r) all[r] = static_cast<int>(r);
  GroupMaker maker(*engine, all);
  maker.read(gather(*engine, maker.ticket()), all);
  const std::vector<int> ready = gather(*engine, maker.ready() ? 1 : 0);
  const bool all_ready = *std::min_element(ready.begin(), ready.end()) != 0;
  return std::make_unique<MpiCommunicator>(engine, all, engine->places().rank, name, recorder, maker, all_ready);
}

}  // namespace trireme
