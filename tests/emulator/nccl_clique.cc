#include "tests/emulator/nccl_clique.h"

#include <algorithm>
#include <chrono>

#include "tests/emulator/nccl_member.h"

namespace emulator {

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Clique::Clique(int size, std::string name) : size_(size), name_(std::move(name)) {
  for (int r = 0; r < size; ++r) {
    members_.push_back(std::make_unique<Member>());
    members_.back()->rank = r;
  }
}

std::string Clique::join(int rank, int device) {
  NcclLock lock(mutex_);
  Member& me = *members_[static_cast<size_t>(rank)];
  if (me.joined) return "rank " + std::to_string(rank) + " is there already";
  me.joined = true;
  me.device = device;
  for (const auto& other : members_) {
    if (!other->joined || other->rank == rank || other->device != device) continue;
    fail_locked(ncclInvalidUsage, "Duplicate GPU detected : rank " + std::to_string(std::min(rank, other->rank)) +
                                      " and rank " + std::to_string(std::max(rank, other->rank)) +
                                      " both on CUDA device " + std::to_string(device));
  }
  changed_.notify_all();
  return "";
}

bool Clique::complete() {
  NcclLock lock(mutex_);
  return std::all_of(members_.begin(), members_.end(), [](const auto& member) { return member->joined; });
}

std::pair<ncclResult_t, std::string> Clique::failure(int rank) {
  NcclLock lock(mutex_);
  const Member& me = *members_[static_cast<size_t>(rank)];
  if (me.failure != ncclSuccess) return {me.failure, me.failure_text};
  return {failure_, failure_text_};
}

bool Clique::over(const Member& member) const {
  return failure_ != ncclSuccess || member.aborted || member.failure != ncclSuccess;
}

void Clique::run(int rank, const NcclLaunch& launch) {
  NcclLock lock(mutex_);
  Member& me = *members_[static_cast<size_t>(rank)];
  while (me.in_launch && !over(me)) changed_.wait(mutex_);
  if (over(me)) return;
  me.in_launch = true;
  count_nccl_progress();
  std::deque<Post> posts;
  me.posts = &posts;
  for (const NcclOp& op : launch) {
    if (op.is_transfer()) post(rank, op, posts);
  }
  for (const NcclOp& op : launch) {
    if (!op.is_transfer() && !over(me)) meet(me, op);
  }
  wait(me, [&] { return std::all_of(posts.begin(), posts.end(), [](const Post& p) { return p.done; }); });
  for (Post& mine : posts) {
    while (mine.copying && !mine.done) changed_.wait(mutex_);  // by the other side
    if (mine.done) {
      mine.finished.acquire();
      continue;
    }
    const bool sends = mine.op.kind == NcclOp::Kind::send;
    std::erase(sends ? sends_[{rank, mine.op.peer}] : recvs_[{mine.op.peer, rank}], &mine);
  }
  me.posts = nullptr;
  me.in_launch = false;
  count_nccl_progress();
  changed_.notify_all();
}

void Clique::meet(Member& me, const NcclOp& op) {
  const int64_t number = me.num_collectives++;
  std::unique_ptr<Meeting>& slot = meetings_[number];
  if (slot == nullptr) {
    slot = std::make_unique<Meeting>();
    slot->ops.resize(static_cast<size_t>(size_));
  }
  Meeting& meeting = *slot;
  if (!meeting.here.empty()) {
    const int first = meeting.here.front();
    const std::string theirs = meeting.ops[static_cast<size_t>(first)].str();
    if (theirs != op.str()) {
      fail_locked(ncclInvalidUsage, "the ranks of " + name_ + " make different calls, number " +
                                        std::to_string(number) + ": rank " + std::to_string(first) + " " + theirs +
                                        ", rank " + std::to_string(me.rank) + " " + op.str());
      return;
    }
  }
  meeting.ops[static_cast<size_t>(me.rank)] = op;
  meeting.here.push_back(me.rank);
  meeting.arrived.release();
  if (static_cast<int>(meeting.here.size()) == size_) {
    meeting.running = true;
    mutex_.unlock();
    meeting.arrived.acquire();
    {
      const race::Seen seen;
      run_collective(meeting.ops);
    }
    meeting.finished.release();
    mutex_.lock();
    meeting.done = true;
    changed_.notify_all();
  } else {
    me.meeting = &meeting;
    wait(me, [&] { return meeting.done; });
    while (meeting.running && !meeting.done) changed_.wait(mutex_);
    me.meeting = nullptr;
    if (!meeting.done) return;
    meeting.finished.acquire();
  }
  if (++meeting.num_left == size_) meetings_.erase(number);
}

void Clique::post(int rank, const NcclOp& op, std::deque<Post>& mine) {
  Post& post = mine.emplace_back(rank, op);
  const bool sends = op.kind == NcclOp::Kind::send;
  const std::pair<int, int> key = sends ? std::pair{rank, op.peer} : std::pair{op.peer, rank};
  std::deque<Post*>& others = sends ? recvs_[key] : sends_[key];
  if (others.empty()) {
    post.posted.release();
    (sends ? sends_[key] : recvs_[key]).push_back(&post);
    return;
  }
  Post& other = *others.front();
  if (other.op.count != op.count || other.op.type != op.type) {
    fail_locked(ncclInvalidUsage, "a transfer of " + name_ + " doesn't fit: rank " + std::to_string(other.rank) + " " +
                                      other.op.str() + ", rank " + std::to_string(rank) + " " + op.str());
    return;
  }
  others.pop_front();
  post.copying = true;
  other.copying = true;
  mutex_.unlock();
  other.posted.acquire();
  {
    const race::Seen seen;
    run_transfer(sends ? op : other.op, sends ? other.op : op);
  }
  other.finished.release();
  mutex_.lock();
  post.done = true;
  other.done = true;
  count_nccl_progress();
  changed_.notify_all();
}

template <class Done>
void Clique::wait(Member& me, Done done) {
  if (done() || over(me)) return;
  me.waits = true;
  find_circle(me.rank);
  const Waiting note("rank " + std::to_string(me.rank) + " of " + name_ + " in " + describe(me));
  int64_t seen = all_progress();
  double since = now();
  while (!done() && !over(me)) {
    changed_.wait_for(mutex_, std::min(0.5, nccl_patience() / 4));
    if (const int64_t current = all_progress(); current != seen) {
      seen = current;
      since = now();
    } else if (now() - since > nccl_patience()) {
      mutex_.unlock();
      give_up(seen);
      mutex_.lock();
      since = now();
    }
  }
  me.waits = false;
}

void Clique::abort(int rank, bool seen) {
  NcclLock lock(mutex_);
  members_[static_cast<size_t>(rank)]->aborted = true;
  if (seen) fail_locked(ncclRemoteError, "rank " + std::to_string(rank) + " of " + name_ + " has aborted");
  changed_.notify_all();
}

void Clique::fail(ncclResult_t result, const std::string& text) {
  NcclLock lock(mutex_);
  fail_locked(result, text);
}

void Clique::fail_locked(ncclResult_t result, const std::string& text) {
  if (failure_ != ncclSuccess) return;
  failure_ = result;
  failure_text_ = text;
  count_nccl_progress();
  changed_.notify_all();
}

void Clique::fail_rank(int rank, ncclResult_t result, const std::string& text) {
  NcclLock lock(mutex_);
  Member& me = *members_[static_cast<size_t>(rank)];
  me.failure = result;
  me.failure_text = text;
  changed_.notify_all();
}

void Clique::add_outstanding(int rank, int count) {
  NcclLock lock(mutex_);
  members_[static_cast<size_t>(rank)]->num_outstanding += count;
}

int Clique::outstanding(int rank) {
  NcclLock lock(mutex_);
  return members_[static_cast<size_t>(rank)]->num_outstanding;
}

}  // namespace emulator
