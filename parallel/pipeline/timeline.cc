#include "parallel/pipeline/timeline.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"

namespace trireme {

namespace {

// All programs on one virtual clock. Each rank goes on as far as what it waits for is known; since a time depends only
// on earlier ones, the order in which ranks are looked at doesn't matter.
class Clock {
 public:
  Clock(const Schedule& schedule, const ActionCosts& costs)
      : schedule_(schedule), costs_(costs), ranks_(static_cast<size_t>(schedule.num_ranks)) {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      for (const Action& action : schedule.programs[r]) ranks_[r].actions.push_back({action});
    }
  }

  // Whether every program came to its end.
  bool run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t r = 0; r < ranks_.size(); ++r) {
        while (step(static_cast<int>(r))) moved = true;
      }
    }
    for (const Rank& rank : ranks_) {
      if (rank.next < rank.actions.size()) return false;
    }
    return true;
  }

  std::string first_wait() const {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const Rank& rank = ranks_[r];
      if (rank.next < rank.actions.size()) {
        return "deadlock: rank " + std::to_string(r) + ", action " + std::to_string(rank.next) + ", " +
               rank.actions[rank.next].action.str() + " waits for what is never sent before it";
      }
    }
    return "";
  }

  std::vector<std::vector<TimedAction>> times() && {
    std::vector<std::vector<TimedAction>> out;
    for (Rank& rank : ranks_) out.push_back(std::move(rank.actions));
    return out;
  }

 private:
  // What a computation waits for: kind of receive, chunk, microbatch.
  struct Input {
    bool gradient;
    int chunk;
    int microbatch;
    auto operator<=>(const Input&) const = default;
  };

  struct Rank {
    std::vector<TimedAction> actions;
    size_t next = 0;
    double now = 0;
    std::map<Input, size_t> received;  // the receive's place in the program
  };

  // One way between two ranks: places in the programs of the sends and receives that were reached, and how many have
  // met.
  struct Way {
    std::vector<size_t> sends, recvs;
    size_t num_met = 0;
    double free_at = 0;
  };

  bool step(int r) {
    Rank& rank = ranks_[static_cast<size_t>(r)];
    if (rank.next == rank.actions.size()) return false;
    TimedAction& timed = rank.actions[rank.next];
    const Action& action = timed.action;
    if (is_compute(action.kind)) {
      const std::optional<double> input = input_time(rank, action);
      if (!input) return false;
      timed.begin = std::max(rank.now, *input);
      timed.end = rank.now = timed.begin + costs_.of(action);
    } else {
      timed.begin = rank.now;
      timed.end = -1;
      if (is_send(action.kind)) {
        ways_[{r, action.peer}].sends.push_back(rank.next);
        meet(r, action.peer);
      } else {
        rank.received[{action.kind == ActionKind::recv_gradient, action.chunk, action.microbatch}] = rank.next;
        ways_[{action.peer, r}].recvs.push_back(rank.next);
        meet(action.peer, r);
      }
    }
    ++rank.next;
    return true;
  }

  // Gives times to the transfers of a way that have both sides.
  void meet(int from, int to) {
    Way& way = ways_[{from, to}];
    while (way.num_met < std::min(way.sends.size(), way.recvs.size())) {
      TimedAction& send = ranks_[static_cast<size_t>(from)].actions[way.sends[way.num_met]];
      TimedAction& recv = ranks_[static_cast<size_t>(to)].actions[way.recvs[way.num_met]];
      send.begin = recv.begin = std::max({send.begin, recv.begin, way.free_at});
      send.end = recv.end = way.free_at = send.begin + costs_.transfer;
      ++way.num_met;
    }
  }

  // When the data that other ranks must give is there; nullopt: not known yet.
  std::optional<double> input_time(const Rank& rank, const Action& action) const {
    if (action.kind == ActionKind::backward_weight) return 0;
    const bool gradient = action.kind != ActionKind::forward;
    const int other = gradient ? action.chunk + 1 : action.chunk - 1;
    if (other < 0 || other == schedule_.num_chunks) return 0;
    if (schedule_.rank_of(other) == schedule_.rank_of(action.chunk)) return 0;  // the program's order is enough
    const auto found = rank.received.find({gradient, action.chunk, action.microbatch});
    if (found == rank.received.end()) return {};
    const TimedAction& recv = rank.actions[found->second];
    return recv.end < 0 ? std::nullopt : std::optional(recv.end);
  }

  const Schedule& schedule_;
  const ActionCosts& costs_;
  std::vector<Rank> ranks_;
  std::map<std::pair<int, int>, Way> ways_;  // by sender and receiver
};

}  // namespace

ActionCosts ActionCosts::uniform(int num_chunks, double forward, double backward_input, double backward_weight,
                                 double transfer) {
  const auto n = static_cast<size_t>(num_chunks);
  return {std::vector(n, forward), std::vector(n, backward_input), std::vector(n, backward_weight), transfer};
}

double ActionCosts::of(const Action& action) const {
  const auto chunk = static_cast<size_t>(action.chunk);
  switch (action.kind) {
    case ActionKind::forward: return forward[chunk];
    case ActionKind::backward: return backward_input[chunk] + backward_weight[chunk];
    case ActionKind::backward_input: return backward_input[chunk];
    case ActionKind::backward_weight: return backward_weight[chunk];
    default: return transfer;
  }
}

double Timeline::bubble(int rank) const {
  double begin = 0;
  double end = 0;
  double work = 0;
  bool any = false;
  for (const TimedAction& timed : ranks[static_cast<size_t>(rank)]) {
    if (!is_compute(timed.action.kind)) continue;
    if (!any) begin = timed.begin;
    any = true;
    end = timed.end;
    work += timed.end - timed.begin;
  }
  return work > 0 ? (end - begin - work) / work : 0;
}

double Timeline::max_bubble() const {
  double most = 0;
  for (size_t r = 0; r < ranks.size(); ++r) most = std::max(most, bubble(static_cast<int>(r)));
  return most;
}

double Timeline::end() const {
  double last = 0;
  for (const auto& rank : ranks) {
    for (const TimedAction& timed : rank) last = std::max(last, timed.end);
  }
  return last;
}

Timeline simulate(const Schedule& schedule, const ActionCosts& costs) {
  Clock clock(schedule, costs);
  TRIREME_CHECK(clock.run(), clock.first_wait());
  return {schedule, std::move(clock).times()};
}

std::string find_deadlock(const Schedule& schedule) {
  const ActionCosts costs = ActionCosts::uniform(schedule.num_chunks, 1, 1, 1);
  Clock clock(schedule, costs);
  return clock.run() ? "" : clock.first_wait();
}

}  // namespace trireme
