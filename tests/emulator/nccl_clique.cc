#include "tests/emulator/nccl_clique.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>

#include "tests/emulator/emulator.h"
#include "tests/emulator/nccl.h"

namespace emulator {

namespace {

using Lock = std::unique_lock<HiddenMutex>;

// The process's cliques, and what tests have set.
struct World {
  HiddenMutex mutex;
  std::vector<Clique*> cliques;
  HiddenMutex reporting;  // one thread at a time finds that all is stuck
};

World& world() {
  static World* instance = new World;
  return *instance;
}

std::atomic<int64_t> progress{0};
std::atomic<double> patience{60};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int64_t world_progress() { return progress.load() + counters().operations; }

}  // namespace

int64_t nccl_progress() { return progress.load(); }
double nccl_patience() { return patience.load(); }
void set_nccl_patience(double seconds) { patience.store(seconds); }

std::vector<Clique*> all_cliques() {
  Lock lock(world().mutex);
  return world().cliques;
}

Clique* make_clique(int size, const std::string& name) {
  auto* clique = new Clique(size, name);
  Lock lock(world().mutex);
  world().cliques.push_back(clique);
  return clique;
}

// A collective, from its first rank's arrival to its last one's leaving.
struct Clique::Meeting {
  std::vector<NcclOp> ops;
  std::vector<int> here;  // ranks, in order of arrival
  bool running = false;
  bool done = false;
  int num_left = 0;
  Edge arrived;
  Edge finished;
};

// One side of a transfer.
struct Clique::Post {
  Post(int of, const NcclOp& what) : rank(of), op(what) {}
  int rank;
  NcclOp op;
  bool copying = false;
  bool done = false;
  Edge posted;
  Edge finished;
};

struct Clique::Member {
  int rank = 0;
  bool joined = false;
  int device = -1;
  bool aborted = false;
  ncclResult_t failure = ncclSuccess;
  std::string failure_text;
  int64_t num_collectives = 0;
  int num_outstanding = 0;
  // The launch that runs, and what it waits for.
  bool in_launch = false;
  bool waits = false;
  Meeting* meeting = nullptr;
  std::deque<Post>* posts = nullptr;
};

Clique::Clique(int size, std::string name) : size_(size), name_(std::move(name)) {
  for (int r = 0; r < size; ++r) {
    members_.push_back(std::make_unique<Member>());
    members_.back()->rank = r;
  }
}

std::string Clique::join(int rank, int device) {
  Lock lock(mutex_);
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
  Lock lock(mutex_);
  return std::all_of(members_.begin(), members_.end(), [](const auto& member) { return member->joined; });
}

std::pair<ncclResult_t, std::string> Clique::failure(int rank) {
  Lock lock(mutex_);
  const Member& me = *members_[static_cast<size_t>(rank)];
  if (me.failure != ncclSuccess) return {me.failure, me.failure_text};
  return {failure_, failure_text_};
}

bool Clique::over(const Member& member) const {
  return failure_ != ncclSuccess || member.aborted || member.failure != ncclSuccess;
}

void Clique::run(int rank, const NcclLaunch& launch) {
  Lock lock(mutex_);
  Member& me = *members_[static_cast<size_t>(rank)];
  while (me.in_launch && !over(me)) changed_.wait(mutex_);
  if (over(me)) return;
  me.in_launch = true;
  progress.fetch_add(1);
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
  progress.fetch_add(1);
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
    run_collective(meeting.ops);
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
  run_transfer(sends ? op : other.op, sends ? other.op : op);
  other.finished.release();
  mutex_.lock();
  post.done = true;
  other.done = true;
  progress.fetch_add(1);
  changed_.notify_all();
}

template <class Done>
void Clique::wait(Member& me, Done done) {
  if (done() || over(me)) return;
  me.waits = true;
  find_circle(me.rank);
  const Waiting note("rank " + std::to_string(me.rank) + " of " + name_ + " in " + describe(me));
  int64_t seen = world_progress();
  double since = now();
  while (!done() && !over(me)) {
    changed_.wait_for(mutex_, std::min(0.5, patience.load() / 4));
    if (const int64_t current = world_progress(); current != seen) {
      seen = current;
      since = now();
    } else if (now() - since > patience.load()) {
      mutex_.unlock();
      give_up(seen);
      mutex_.lock();
      since = now();
    }
  }
  me.waits = false;
}

// Ranks that must do something before the launch can go on.
std::vector<int> Clique::needs(const Member& member) const {
  std::vector<int> ranks;
  if (!member.waits) return ranks;
  if (member.meeting != nullptr) {
    const std::vector<int>& here = member.meeting->here;
    for (int r = 0; r < size_ && !member.meeting->running; ++r) {
      if (std::find(here.begin(), here.end(), r) == here.end()) ranks.push_back(r);
    }
    return ranks;
  }
  for (const Post& post : *member.posts) {
    if (!post.copying) ranks.push_back(post.op.peer);
  }
  return ranks;
}

// All that a waiting launch can do is done, so ranks that need each other in a circle will do so for ever.
void Clique::find_circle(int from) {
  std::vector<int> reached = needs(*members_[static_cast<size_t>(from)]);
  for (size_t i = 0; i < reached.size(); ++i) {
    for (const int next : needs(*members_[static_cast<size_t>(reached[i])])) {
      if (std::find(reached.begin(), reached.end(), next) == reached.end()) reached.push_back(next);
    }
  }
  if (std::find(reached.begin(), reached.end(), from) == reached.end()) return;
  std::string text = "deadlock: the ranks of " + name_ + " wait for each other";
  for (const auto& member : members_) {
    if (member->waits) text += "; rank " + std::to_string(member->rank) + " in " + describe(*member);
  }
  fail_locked(ncclInternalError, text);
}

std::string Clique::describe(const Member& member) const {
  if (member.meeting != nullptr) {
    return member.meeting->ops[static_cast<size_t>(member.rank)].str() + ", number " +
           std::to_string(member.num_collectives - 1);
  }
  std::string text;
  for (const Post& post : *member.posts) {
    if (!post.copying) text += (text.empty() ? "" : " and ") + post.op.str();
  }
  return text;
}

std::string Clique::waiting() const {
  std::string text;
  for (const auto& member : members_) {
    if (!member->waits || needs(*member).empty()) continue;
    text += "; rank " + std::to_string(member->rank) + " of " + name_ + " in " + describe(*member) + " needs";
    for (const int r : needs(*member)) text += " " + std::to_string(r);
  }
  return text;
}

// Nothing has moved anywhere: whoever waits, waits in vain. All at once, or the first to be ended would free others.
void Clique::give_up(int64_t seen) {
  Lock reporting(world().reporting);
  if (world_progress() != seen) return;
  const std::vector<Clique*> cliques = all_cliques();
  for (Clique* clique : cliques) clique->mutex_.lock();
  std::string text = "deadlock: no operation has finished for " + std::to_string(patience.load()) + " s";
  std::vector<Clique*> stuck;
  for (Clique* clique : cliques) {
    const std::string waits = clique->waiting();
    text += waits;
    if (!waits.empty()) stuck.push_back(clique);
  }
  for (Clique* clique : stuck) clique->fail_locked(ncclInternalError, text);
  for (Clique* clique : cliques) clique->mutex_.unlock();
}

void Clique::abort(int rank, bool seen) {
  Lock lock(mutex_);
  members_[static_cast<size_t>(rank)]->aborted = true;
  if (seen) fail_locked(ncclRemoteError, "rank " + std::to_string(rank) + " of " + name_ + " has aborted");
  changed_.notify_all();
}

void Clique::fail(ncclResult_t result, const std::string& text) {
  Lock lock(mutex_);
  fail_locked(result, text);
}

void Clique::fail_locked(ncclResult_t result, const std::string& text) {
  if (failure_ != ncclSuccess) return;
  failure_ = result;
  failure_text_ = text;
  progress.fetch_add(1);
  changed_.notify_all();
}

void Clique::fail_rank(int rank, ncclResult_t result, const std::string& text) {
  Lock lock(mutex_);
  Member& me = *members_[static_cast<size_t>(rank)];
  me.failure = result;
  me.failure_text = text;
  changed_.notify_all();
}

void Clique::add_outstanding(int rank, int count) {
  Lock lock(mutex_);
  members_[static_cast<size_t>(rank)]->num_outstanding += count;
}

int Clique::outstanding(int rank) {
  Lock lock(mutex_);
  return members_[static_cast<size_t>(rank)]->num_outstanding;
}

}  // namespace emulator
