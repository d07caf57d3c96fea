#include "parallel/pipeline/make_schedule.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/error.h"

namespace trireme {

namespace {

constexpr int kUnlimited = std::numeric_limits<int>::max();
constexpr int kNever = std::numeric_limits<int>::max();

// Actions of one rank that must run in this order.
using Lane = std::vector<Action>;

// What one rank may do and what it prefers. It takes the first that is possible of: forwards, backwards, the oldest
// weight gradient; lanes in the order of the list.
struct RankPolicy {
  std::vector<Lane> forwards;
  std::vector<Lane> backwards;
  int max_waiting = kUnlimited;  // forwards whose backward (its first half) hasn't run
  int max_stashes = kUnlimited;  // forwards whose weight gradient hasn't run
  // As long as forwards are left, weight gradients run before backwards.
  bool weights_early = false;
};

Lane lane(ActionKind kind, int chunk, int num_microbatches) {
  Lane actions;
  for (int j = 0; j < num_microbatches; ++j) actions.push_back({kind, chunk, j});
  return actions;
}

// Group by group; in each group chunk by chunk.
Lane grouped_lane(ActionKind kind, const std::vector<int>& chunks, int num_microbatches, int group) {
  Lane actions;
  for (int begin = 0; begin < num_microbatches; begin += group) {
    const int end = std::min(num_microbatches, begin + group);
    for (const int chunk : chunks) {
      for (int j = begin; j < end; ++j) actions.push_back({kind, chunk, j});
    }
  }
  return actions;
}

RankPolicy make_policy(PipelineSchedule kind, const Schedule& schedule, int rank, int group) {
  const int p = schedule.num_ranks;
  const int m = schedule.num_microbatches;
  const bool halves = kind == PipelineSchedule::zb_h1 || kind == PipelineSchedule::zb_v;
  const ActionKind backward = halves ? ActionKind::backward_input : ActionKind::backward;
  const std::vector<int> up = schedule.chunks_of(rank);
  const std::vector<int> down(up.rbegin(), up.rend());

  RankPolicy policy;
  if (kind == PipelineSchedule::interleaved) {
    policy.forwards = {grouped_lane(ActionKind::forward, up, m, group)};
    policy.backwards = {grouped_lane(backward, down, m, group)};
    policy.max_waiting = 2 * (p - 1 - rank) + (static_cast<int>(up.size()) - 1) * std::min(group, m) + 1;
  } else {
    // The chunk that is nearer to the loss first; back, the one that others wait for longest.
    for (const int chunk : down) policy.forwards.push_back(lane(ActionKind::forward, chunk, m));
    for (const int chunk : up) policy.backwards.push_back(lane(backward, chunk, m));
  }
  if (kind == PipelineSchedule::one_f_one_b || kind == PipelineSchedule::zb_h1) policy.max_waiting = p - rank;
  if (kind == PipelineSchedule::zb_h1) policy.max_stashes = p;
  if (kind == PipelineSchedule::zb_v) {
    policy.max_stashes = 2 * p;
    policy.weights_early = true;
  }
  if (schedule.forward_only) {
    policy.backwards.clear();
    policy.max_waiting = policy.max_stashes = kUnlimited;
  }
  return policy;
}

// When each result is there, on the clock.
class Results {
 public:
  explicit Results(const Schedule& schedule)
      : schedule_(schedule),
        forward_(static_cast<size_t>(schedule.num_chunks) * static_cast<size_t>(schedule.num_microbatches), kNever),
        backward_(forward_) {}

  void add(const Action& action, int time) {
    if (action.kind == ActionKind::forward) forward_[index(action.chunk, action.microbatch)] = time;
    if (action.kind == ActionKind::backward || action.kind == ActionKind::backward_input) {
      backward_[index(action.chunk, action.microbatch)] = time;
    }
  }

  // When all that a forward or a backward needs is there.
  int ready(const Action& action) const {
    const auto [kind, chunk, j, peer] = action;
    if (kind == ActionKind::forward) return chunk == 0 ? 0 : forward_[index(chunk - 1, j)];
    const int own = forward_[index(chunk, j)];
    return chunk == schedule_.last_chunk() ? own : std::max(own, backward_[index(chunk + 1, j)]);
  }

 private:
  size_t index(int chunk, int microbatch) const {
    return static_cast<size_t>(chunk) * static_cast<size_t>(schedule_.num_microbatches) +
           static_cast<size_t>(microbatch);
  }

  const Schedule& schedule_;
  std::vector<int> forward_, backward_;
};

// One rank of the list scheduler.
class ListRank {
 public:
  ListRank(RankPolicy policy, Results& results, std::vector<Action>& program)
      : policy_(std::move(policy)), results_(results), program_(program) {
    for (auto* lanes : {&policy_.forwards, &policy_.backwards}) {
      for (Lane& actions : *lanes) {
        std::reverse(actions.begin(), actions.end());  // taken from the end
        if (lanes == &policy_.forwards) num_forwards_ += actions.size();
        num_left_ += actions.size() * (lanes == &policy_.backwards && halves(actions) ? 2 : 1);
      }
    }
  }

  bool finished() const { return num_left_ == 0; }
  int free_at() const { return free_at_; }

  // Starts the action that is due at this time, if any.
  bool step(int now) {
    if (now < free_at_ || finished()) return false;
    const bool early = policy_.weights_early && num_forwards_ > 0;
    if (!take_forward(now) && !(early && take_weight(now)) && !take_backward(now) && !take_weight(now)) return false;
    --num_left_;
    return true;
  }

 private:
  static bool halves(const Lane& actions) {
    return !actions.empty() && actions.front().kind == ActionKind::backward_input;
  }

  void run(const Action& action, int now) {
    free_at_ = now + (action.kind == ActionKind::backward ? 2 : 1);
    results_.add(action, free_at_);
    program_.push_back(action);
  }

  bool take(std::vector<Lane>& lanes, int now) {
    for (Lane& actions : lanes) {
      if (actions.empty() || results_.ready(actions.back()) > now) continue;
      run(actions.back(), now);
      actions.pop_back();
      return true;
    }
    return false;
  }

  bool take_forward(int now) {
    if (num_waiting_ >= policy_.max_waiting || num_stashes_ >= policy_.max_stashes) return false;
    if (!take(policy_.forwards, now)) return false;
    --num_forwards_;
    ++num_waiting_;
    ++num_stashes_;
    return true;
  }

  bool take_backward(int now) {
    if (!take(policy_.backwards, now)) return false;
    --num_waiting_;
    const Action& action = program_.back();
    if (action.kind == ActionKind::backward) {
      --num_stashes_;
    } else {
      weights_.push_back({ActionKind::backward_weight, action.chunk, action.microbatch});
    }
    return true;
  }

  bool take_weight(int now) {
    if (next_weight_ == weights_.size()) return false;
    run(weights_[next_weight_++], now);
    --num_stashes_;
    return true;
  }

  RankPolicy policy_;
  Results& results_;
  std::vector<Action>& program_;
  std::vector<Action> weights_;  // that have become possible, oldest first
  size_t next_weight_ = 0;
  size_t num_forwards_ = 0;  // left
  size_t num_left_ = 0;      // actions
  int num_waiting_ = 0;
  int num_stashes_ = 0;
  int free_at_ = 0;
};

void fill_programs(Schedule& schedule, PipelineSchedule kind, int group) {
  Results results(schedule);
  std::vector<ListRank> ranks;
  for (int r = 0; r < schedule.num_ranks; ++r) {
    ranks.emplace_back(make_policy(kind, schedule, r, group), results, schedule.programs[static_cast<size_t>(r)]);
  }
  for (int now = 0;;) {
    // What one rank finishes at `now` all see, so the order of ranks doesn't matter.
    for (ListRank& rank : ranks) rank.step(now);
    int next = kNever;
    bool finished = true;
    for (const ListRank& rank : ranks) {
      if (rank.free_at() > now) next = std::min(next, rank.free_at());
      finished = finished && rank.finished();
    }
    if (finished) return;
    TRIREME_CHECK(next != kNever, "the list scheduler is stuck");
    now = next;
  }
}

}  // namespace

Schedule make_schedule(PipelineSchedule kind, int num_ranks, int64_t virtual_stages, int num_microbatches,
                       std::optional<int64_t> microbatch_group, bool forward_only) {
  TRIREME_CHECK(num_ranks >= 1 && num_microbatches >= 1 && microbatch_group.value_or(1) >= 1);
  TRIREME_CHECK(kind == PipelineSchedule::interleaved ? virtual_stages >= 1
                                                      : virtual_stages == (kind == PipelineSchedule::zb_v ? 2 : 1),
                "chunks that this schedule doesn't have");
  Schedule schedule;
  schedule.name = to_string(kind);
  schedule.num_ranks = num_ranks;
  schedule.num_chunks = num_ranks * static_cast<int>(virtual_stages);
  schedule.num_microbatches = num_microbatches;
  schedule.forward_only = forward_only;
  for (int chunk = 0; chunk < schedule.num_chunks; ++chunk) {
    const bool back = kind == PipelineSchedule::zb_v && chunk >= num_ranks;
    schedule.rank_of_chunk.push_back(back ? schedule.last_chunk() - chunk : chunk % num_ranks);
  }
  schedule.programs.resize(static_cast<size_t>(num_ranks));
  fill_programs(schedule, kind,
                static_cast<int>(std::min<int64_t>(microbatch_group.value_or(num_ranks), num_microbatches)));
  add_transfers(schedule);
  return schedule;
}

}  // namespace trireme
