#include "parallel/comm/thread_world.h"

#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/comm/thread_hub.h"

namespace trireme {

namespace {

class ThreadWork final : public Work {
 public:
  ThreadWork(std::shared_ptr<ThreadHub> hub, PendingPtr pending) : hub_(std::move(hub)), pending_(std::move(pending)) {}
  ~ThreadWork() override {
    if (std::uncaught_exceptions() > 0) hub_->abandon(pending_);
  }
  void wait(Stream&) override { hub_->wait(pending_); }
  bool done() override { return hub_->done(pending_); }

 private:
  std::shared_ptr<ThreadHub> hub_;
  PendingPtr pending_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadHub> hub, std::shared_ptr<ThreadGroup> group, int rank,
                     FlightRecorder& recorder)
      : Communicator(rank, static_cast<int>(group->world_ranks.size()), group->name, recorder),
        hub_(std::move(hub)),
        group_(std::move(group)) {}
  ~ThreadCommunicator() override { hub_->remove_member(group_, rank()); }
  std::string backend() const override { return "thread"; }

 protected:
  WorkHandle submit(CommCall call, Stream&) override {
    TRIREME_CHECK(call.device().type == DeviceType::cpu, "the thread backend takes host tensors");
    const PendingPtr pending = make_pending();
    pending->call = std::move(call);
    hub_->submit(pending);
    return std::make_shared<ThreadWork>(hub_, pending);
  }

  std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) override {
    const PendingPtr pending = make_pending();
    pending->is_split = true;
    pending->split_ranks.assign(ranks.begin(), ranks.end());
    pending->split_name = name;
    hub_->submit(pending);
    hub_->wait(pending);
    if (ranks.empty()) return nullptr;
    if (ranks.size() == 1) return make_self_communicator(name, recorder());
    int new_rank = 0;
    while (ranks[static_cast<size_t>(new_rank)] != rank()) ++new_rank;
    hub_->add_member(group_->world_ranks[static_cast<size_t>(rank())]);
    return std::make_unique<ThreadCommunicator>(hub_, pending->split_group, new_rank, recorder());
  }

 private:
  PendingPtr make_pending() const {
    auto pending = std::make_shared<PendingCall>();
    pending->group = group_;
    pending->rank = rank();
    pending->recorder = &recorder();
    return pending;
  }

  std::shared_ptr<ThreadHub> hub_;
  std::shared_ptr<ThreadGroup> group_;
};

}  // namespace

ThreadWorld::ThreadWorld(int size, ThreadWorldOptions options)
    : hub_(std::make_shared<ThreadHub>(size, std::move(options))) {}

ThreadWorld::~ThreadWorld() = default;

int ThreadWorld::size() const { return hub_->size(); }

std::unique_ptr<Communicator> ThreadWorld::communicator(int rank, FlightRecorder& recorder) {
  TRIREME_CHECK(rank >= 0 && rank < size());
  return std::make_unique<ThreadCommunicator>(hub_, hub_->world_group(), rank, recorder);
}

void ThreadWorld::abort(const std::string& reason) { hub_->abort(reason); }

bool ThreadWorld::aborted() const { return hub_->aborted(); }

void run_thread_ranks(int size, const std::function<void(Communicator&)>& body, ThreadWorldOptions options) {
  ThreadWorld world(size, std::move(options));
  std::vector<std::unique_ptr<FlightRecorder>> recorders;
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int r = 0; r < size; ++r) {
    recorders.push_back(std::make_unique<FlightRecorder>(r));
    communicators.push_back(world.communicator(r, *recorders.back()));
  }
  std::mutex mutex;
  std::exception_ptr first;
  bool first_is_consequence = false;  // a rank that was woken because another failed
  const auto run = [&](int rank) {
    std::unique_ptr<Communicator> mine = std::move(communicators[static_cast<size_t>(rank)]);
    try {
      body(*mine);
    } catch (const std::exception& error) {
      {
        std::lock_guard lock(mutex);
        const bool consequence = dynamic_cast<const PeerError*>(&error) != nullptr;
        if (!first || (first_is_consequence && !consequence)) {
          first = std::current_exception();
          first_is_consequence = consequence;
        }
      }
      world.abort("rank " + std::to_string(rank) + " failed: " + error.what());
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back(run, r);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace trireme
