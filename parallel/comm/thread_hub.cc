#include "parallel/comm/thread_hub.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "parallel/comm/thread_collectives.h"

namespace trireme {

namespace {

bool is_transfer(const PendingCall& pending) { return pending.call.op == CommOp::send; }

// Why the groups asked for by a split don't fit each other; empty when they do.
std::string split_mismatch(const std::vector<PendingPtr>& calls) {
  for (size_t r = 0; r < calls.size(); ++r) {
    if (!calls[r]->is_split) return "rank " + std::to_string(r) + " did not call split";
    for (const int member : calls[r]->split_ranks) {
      if (calls[static_cast<size_t>(member)]->split_ranks == calls[r]->split_ranks) continue;
      return "split: ranks " + std::to_string(r) + " and " + std::to_string(member) + " gave different lists";
    }
  }
  return "";
}

}  // namespace

std::string PendingCall::str() const {
  return (is_split ? "split, call " + std::to_string(call.sequence) : call.str()) + " on group " + group->name +
         (active ? "" : " (behind an earlier call)");
}

ThreadHub::ThreadHub(int size, ThreadWorldOptions options)
    : size_(size), options_(std::move(options)), world_(std::make_shared<ThreadGroup>()) {
  TRIREME_CHECK(size >= 1);
  world_->name = "world";
  world_->queues.resize(static_cast<size_t>(size));
  for (int r = 0; r < size; ++r) {
    world_->world_ranks.push_back(r);
    wake_.push_back(std::make_unique<std::condition_variable>());
  }
  waiting_.resize(static_cast<size_t>(size));
  num_members_.resize(static_cast<size_t>(size), 1);
  groups_.push_back(world_);
  if (options_.delay_seconds) timer_ = std::thread([this] { run_timer(); });
}

ThreadHub::~ThreadHub() {
  {
    Lock lock(mutex_);
    stop_ = true;
    abort_locked("the thread world was destroyed");
  }
  timer_wake_.notify_all();
  if (timer_.joinable()) timer_.join();
}

void ThreadHub::submit(const PendingPtr& pending) {
  Lock lock(mutex_);
  if (aborted_) throw PeerError({.what = "the ranks were stopped: " + abort_reason_});
  if (is_transfer(*pending)) {
    pending->matched.resize(pending->call.transfers.size());
    pending->num_unfinished = std::ssize(pending->call.transfers);
  }
  auto& queue = pending->group->queues[static_cast<size_t>(pending->rank)];
  queue.push_back(pending);
  if (queue.size() == 1) activate_next(*pending->group, pending->rank);
  run_jobs(lock);
}

void ThreadHub::activate_next(ThreadGroup& group, int rank) {
  auto& queue = group.queues[static_cast<size_t>(rank)];
  if (queue.empty()) return;
  const PendingPtr pending = queue.front();
  pending->active = true;
  if (pending->recorder != nullptr) {
    for (const int64_t id : pending->call.record_ids) pending->recorder->mark_started(id);
  }
  if (is_transfer(*pending)) {
    if (pending->num_unfinished == 0) {
      finish(pending);
    }
    for (size_t i = 0; i < pending->call.transfers.size(); ++i) {
      if (!pending->matched[i]) match_transfer(pending, i);
    }
    return;
  }
  if (++group.num_active_collectives < std::ssize(group.queues)) return;
  group.num_active_collectives = 0;
  Job job;
  for (const auto& other : group.queues) job.collective.push_back(other.front());
  jobs_.push_back(std::move(job));
}

// Pairs the transfer with the first free one of the other side, if the other side's call is active.
void ThreadHub::match_transfer(const PendingPtr& pending, size_t index) {
  const Transfer& mine = pending->call.transfers[index];
  auto& queue = pending->group->queues[static_cast<size_t>(mine.peer)];
  if (queue.empty() || !queue.front()->active || !is_transfer(*queue.front())) return;
  const PendingPtr& other = queue.front();
  for (size_t i = 0; i < other->call.transfers.size(); ++i) {
    const Transfer& theirs = other->call.transfers[i];
    if (other->matched[i] || theirs.kind == mine.kind || theirs.peer != pending->rank) continue;
    pending->matched[index] = true;
    other->matched[i] = true;
    const bool send = mine.kind == Transfer::Kind::send;
    jobs_.push_back({.collective = {},
                     .sender = send ? pending : other,
                     .receiver = send ? other : pending,
                     .send_index = send ? index : i,
                     .receive_index = send ? i : index});
    return;
  }
}

void ThreadHub::run_jobs(Lock& lock) {
  ++num_busy_;
  while (!jobs_.empty() && !aborted_) {
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    if (job.collective.empty()) {
      run_transfer(lock, job);
    } else {
      run_collective(lock, job.collective);
    }
    idle_.notify_all();
  }
  --num_busy_;
}

void ThreadHub::run_collective(Lock& lock, const std::vector<PendingPtr>& calls) {
  const bool split = std::any_of(calls.begin(), calls.end(), [](const auto& c) { return c->is_split; });
  std::vector<const CommCall*> plain;
  for (const PendingPtr& call : calls) plain.push_back(&call->call);
  const std::string mismatch = split ? split_mismatch(calls) : collective_mismatch(plain);
  if (!mismatch.empty()) return fail(calls, mismatch);
  if (split) {
    for (const PendingPtr& call : calls) {
      if (call->split_ranks.empty() || call->split_group) continue;
      auto group = std::make_shared<ThreadGroup>();
      group->name = call->split_name;
      group->queues.resize(call->split_ranks.size());
      for (const int member : call->split_ranks) {
        group->world_ranks.push_back(call->group->world_ranks[static_cast<size_t>(member)]);
        calls[static_cast<size_t>(member)]->split_group = group;
      }
      groups_.push_back(group);
    }
  } else {
    for (const PendingPtr& call : calls) ++call->num_running;
    lock.unlock();
    run_collective_in_memory(plain);
    lock.lock();
    for (const PendingPtr& call : calls) --call->num_running;
  }
  finish_later(lock, calls);
}

void ThreadHub::run_transfer(Lock& lock, const Job& job) {
  const Tensor& from = job.sender->call.transfers[job.send_index].tensor;
  const Tensor& to = job.receiver->call.transfers[job.receive_index].tensor;
  if (from.bytes() != to.bytes()) {
    return fail({job.sender, job.receiver},
                "group " + job.sender->group->name + ": rank " + std::to_string(job.sender->rank) + " sends " +
                    std::to_string(from.bytes()) + " bytes to rank " + std::to_string(job.receiver->rank) +
                    ", which expects " + std::to_string(to.bytes()));
  }
  ++job.sender->num_running;
  ++job.receiver->num_running;
  lock.unlock();
  if (from.bytes() > 0) std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.bytes()));
  lock.lock();
  --job.sender->num_running;
  --job.receiver->num_running;
  std::vector<PendingPtr> finished;
  if (--job.sender->num_unfinished == 0) finished.push_back(job.sender);
  if (--job.receiver->num_unfinished == 0) finished.push_back(job.receiver);
  if (!finished.empty()) finish_later(lock, std::move(finished));
}

void ThreadHub::finish_later(Lock& lock, std::vector<PendingPtr> finished) {
  double delay = 0;
  if (options_.delay_seconds) {
    lock.unlock();
    for (const PendingPtr& call : finished) {
      delay = std::max(delay, options_.delay_seconds(call->group->name, call->call));
    }
    lock.lock();
  }
  if (delay > 0) {
    const auto when = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(delay));
    delayed_.emplace(when, std::move(finished));
    timer_wake_.notify_all();
    return;
  }
  for (const PendingPtr& call : finished) finish(call);
}

void ThreadHub::finish(const PendingPtr& pending) {
  if (pending->done) return;  // aborted meanwhile
  pending->done = true;
  if (pending->recorder != nullptr) {
    for (const int64_t id : pending->call.record_ids) pending->recorder->mark_finished(id);
  }
  // The tensors go back to their rank's allocator before the rank can see that the call is done.
  pending->call.input = {};
  pending->call.output = {};
  pending->call.transfers.clear();
  const std::shared_ptr<ThreadGroup> group = pending->group;
  const auto rank = static_cast<size_t>(pending->rank);
  wake_[static_cast<size_t>(group->world_ranks[rank])]->notify_all();
  auto& queue = group->queues[rank];
  queue.pop_front();
  activate_next(*group, pending->rank);
}

void ThreadHub::fail(const std::vector<PendingPtr>& calls, const std::string& what) {
  for (const PendingPtr& call : calls) {
    if (call->done) continue;
    call->failed = true;
    call->error_code = ExitCode::bug;
    call->error = "calls of the ranks don't fit: " + what;
  }
  abort_locked("calls of the ranks don't fit: " + what);
}

void ThreadHub::abort_locked(const std::string& reason) {
  if (aborted_) return;
  aborted_ = true;
  abort_reason_ = reason;
  jobs_.clear();
  delayed_.clear();
  for (const auto& weak : groups_) {
    const auto group = weak.lock();
    if (!group) continue;
    for (auto& queue : group->queues) {
      for (const PendingPtr& pending : queue) {
        if (!pending->failed) pending->error = "the ranks were stopped: " + reason;
        pending->failed = true;
        pending->done = true;
      }
      queue.clear();
    }
  }
  for (const auto& wake : wake_) wake->notify_all();
}

void ThreadHub::abort(const std::string& reason) {
  Lock lock(mutex_);
  abort_locked(reason);
}

bool ThreadHub::aborted() {
  Lock lock(mutex_);
  return aborted_;
}

void ThreadHub::wait(const PendingPtr& pending) {
  Lock lock(mutex_);
  const auto rank = static_cast<size_t>(pending->group->world_ranks[static_cast<size_t>(pending->rank)]);
  const auto ready = [&] { return pending->done && pending->num_running == 0; };
  if (!ready()) {
    waiting_[rank] = pending;
    check_deadlock();
    if (options_.timeout_seconds > 0) {
      if (!wake_[rank]->wait_for(lock, std::chrono::duration<double>(options_.timeout_seconds), ready)) {
        abort_locked("rank " + std::to_string(rank) + " waited " + std::to_string(options_.timeout_seconds) + " s\n" +
                     waiting_text());
      }
    }
    while (!pending->done) wake_[rank]->wait(lock);
    while (pending->num_running > 0) idle_.wait(lock);
    waiting_[rank] = nullptr;
  }
  if (!pending->failed) return;
  if (pending->error_code == ExitCode::bug) throw BugError({.what = pending->error});
  throw PeerError({.what = pending->error});
}

bool ThreadHub::done(const PendingPtr& pending) {
  Lock lock(mutex_);
  return pending->done && pending->num_running == 0;
}

void ThreadHub::abandon(const PendingPtr& pending) {
  Lock lock(mutex_);
  if (!pending->done) {
    abort_locked("rank " + std::to_string(pending->group->world_ranks[static_cast<size_t>(pending->rank)]) + " failed");
  }
  while (pending->num_running > 0) idle_.wait(lock);
}

void ThreadHub::add_member(int world_rank) {
  Lock lock(mutex_);
  ++num_members_[static_cast<size_t>(world_rank)];
}

void ThreadHub::remove_member(const std::shared_ptr<ThreadGroup>& group, int rank) {
  Lock lock(mutex_);
  for (const PendingPtr& pending : group->queues[static_cast<size_t>(rank)]) pending->recorder = nullptr;
  const int world_rank = group->world_ranks[static_cast<size_t>(rank)];
  if (--num_members_[static_cast<size_t>(world_rank)] == 0) check_deadlock();
}

std::string ThreadHub::waiting_text() const {
  std::string out;
  for (size_t r = 0; r < waiting_.size(); ++r) {
    const std::string rank = "  rank " + std::to_string(r);
    if (waiting_[r] && !waiting_[r]->done) out += rank + " waits for " + waiting_[r]->str() + "\n";
    if (!waiting_[r] && num_members_[r] == 0) out += rank + " is gone\n";
  }
  return out;
}

// Exact, because a rank that neither waits nor is gone can still make calls, and all that is possible
// without a new call is either done at once, by a busy thread, or in the list of delayed results.
void ThreadHub::check_deadlock() {
  if (!options_.detect_deadlock || aborted_ || num_busy_ > 0 || !delayed_.empty()) return;
  bool any_waits = false;
  for (size_t r = 0; r < waiting_.size(); ++r) {
    const bool waits = waiting_[r] && !waiting_[r]->done;
    if (!waits && num_members_[r] > 0) return;
    any_waits = any_waits || waits;
  }
  if (any_waits) abort_locked("deadlock, no call can proceed\n" + waiting_text());
}

void ThreadHub::run_timer() {
  Lock lock(mutex_);
  while (!stop_) {
    if (delayed_.empty()) {
      timer_wake_.wait(lock);
      continue;
    }
    const auto first = delayed_.begin();
    const Clock::time_point when = first->first;
    if (Clock::now() < when) {
      timer_wake_.wait_until(lock, when);
      continue;
    }
    const std::vector<PendingPtr> finished = std::move(first->second);
    delayed_.erase(first);
    for (const PendingPtr& call : finished) finish(call);
    run_jobs(lock);
    check_deadlock();
  }
}

}  // namespace trireme
