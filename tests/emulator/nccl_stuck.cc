// When launches of the emulated NCCL wait in vain: how that is found, and what is said then.
#include <algorithm>
#include <atomic>

#include "tests/emulator/emulator.h"
#include "tests/emulator/nccl.h"
#include "tests/emulator/nccl_member.h"

namespace emulator {

namespace {

// All cliques of the process.
struct World {
  HiddenMutex mutex;
  std::vector<Clique*> cliques;
};

World& world() {
  static World* instance = new World;
  return *instance;
}

// One thread at a time finds that all is stuck.
HiddenMutex& reporting() {
  static HiddenMutex* mutex = new HiddenMutex;
  return *mutex;
}

std::atomic<int64_t> progress{0};
std::atomic<double> patience{60};

}  // namespace

void count_nccl_progress() { progress.fetch_add(1); }
int64_t all_progress() { return progress.load() + counters().operations; }
double nccl_patience() { return patience.load(); }
void set_nccl_patience(double seconds) { patience.store(seconds); }

std::vector<Clique*> all_cliques() {
  NcclLock lock(world().mutex);
  return world().cliques;
}

Clique* make_clique(int size, const std::string& name) {
  auto* clique = new Clique(size, name);
  NcclLock lock(world().mutex);
  world().cliques.push_back(clique);
  return clique;
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
  NcclLock lock(reporting());
  if (all_progress() != seen) return;
  const std::vector<Clique*> cliques = all_cliques();
  for (Clique* clique : cliques) clique->mutex_.lock();
  std::string text = "deadlock: no operation has finished for " + std::to_string(nccl_patience()) + " s";
  std::vector<Clique*> stuck;
  for (Clique* clique : cliques) {
    const std::string waits = clique->waiting();
    text += waits;
    if (!waits.empty()) stuck.push_back(clique);
  }
  for (Clique* clique : stuck) clique->fail_locked(ncclInternalError, text);
  for (Clique* clique : cliques) clique->mutex_.unlock();
}

}  // namespace emulator
