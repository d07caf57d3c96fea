#include "parallel/pipeline/checker.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "parallel/pipeline/timeline.h"

namespace trireme {

namespace {

// A chunk and a microbatch.
using Place = std::pair<int, int>;

// Something that is made once and used once.
enum class Item : uint8_t { missing, there, used };

// One rank's program on its own.
class RankCheck {
 public:
  RankCheck(const Schedule& schedule, int rank)
      : schedule_(schedule),
        rank_(rank),
        next_weight_(static_cast<size_t>(schedule.num_chunks)),
        places_(static_cast<size_t>(schedule.num_chunks) * static_cast<size_t>(schedule.num_microbatches)) {}

  // The first violation, or "".
  std::string run() {
    const auto& program = schedule_.program(rank_);
    for (size_t i = 0; i < program.size(); ++i) {
      const std::string problem = action(program[i]);
      if (problem.empty()) continue;
      return "rank " + std::to_string(rank_) + ", action " + std::to_string(i) + ", " + program[i].str() + ": " +
             problem;
    }
    for (const int chunk : schedule_.chunks_of(rank_)) {
      for (int j = 0; j < schedule_.num_microbatches; ++j) {
        const std::string problem = left_over(chunk, j);
        if (problem.empty()) continue;
        return "rank " + std::to_string(rank_) + ", at the end, chunk " + std::to_string(chunk) + ", microbatch " +
               std::to_string(j) + ": " + problem;
      }
    }
    return "";
  }

 private:
  // What a rank has of one chunk and microbatch.
  struct State {
    Item input = Item::missing;            // what forward needs
    Item output_gradient = Item::missing;  // what backward needs
    Item output = Item::missing;           // to be sent
    Item input_gradient = Item::missing;   // to be sent
    Item stash = Item::missing;            // from forward to the first half of backward
    Item weight_stash = Item::missing;     // from there to the second half
  };

  State& state(int chunk, int j) {
    return places_[static_cast<size_t>(chunk) * static_cast<size_t>(schedule_.num_microbatches) +
                   static_cast<size_t>(j)];
  }

  std::string action(const Action& a) {
    if (a.chunk < 0 || a.chunk >= schedule_.num_chunks) return "there is no such chunk";
    if (a.microbatch < 0 || a.microbatch >= schedule_.num_microbatches) return "there is no such microbatch";
    if (schedule_.rank_of(a.chunk) != rank_) {
      return "the chunk is of rank " + std::to_string(schedule_.rank_of(a.chunk));
    }
    if (schedule_.forward_only && a.kind != ActionKind::forward && a.kind != ActionKind::send_activation &&
        a.kind != ActionKind::recv_activation) {
      return "an evaluation has no backward";
    }
    State& s = state(a.chunk, a.microbatch);
    switch (a.kind) {
      case ActionKind::forward: return forward(a, s);
      case ActionKind::backward: {
        const std::string problem = backward_input(a, s);
        return problem.empty() ? backward_weight(a, s) : problem;
      }
      case ActionKind::backward_input: return backward_input(a, s);
      case ActionKind::backward_weight: return backward_weight(a, s);
      case ActionKind::send_activation: return send(a, a.chunk + 1, s.output);
      case ActionKind::send_gradient: return send(a, a.chunk - 1, s.input_gradient);
      case ActionKind::recv_activation: return recv(a, a.chunk - 1, s.input);
      case ActionKind::recv_gradient: return recv(a, a.chunk + 1, s.output_gradient);
    }
    return "there is no such kind of action";
  }

  std::string forward(const Action& a, State& s) {
    if (s.stash != Item::missing) return "it ran before";
    if (a.chunk > 0) {
      if (s.input != Item::there) return "its input isn't there";
      s.input = Item::used;
    }
    s.stash = schedule_.forward_only ? Item::used : Item::there;
    if (a.chunk < schedule_.last_chunk()) {
      (is_here(a.chunk + 1) ? state(a.chunk + 1, a.microbatch).input : s.output) = Item::there;
    }
    return "";
  }

  std::string backward_input(const Action& a, State& s) {
    if (s.stash == Item::missing) return "its forward has not run";
    if (s.stash == Item::used) return "it ran before";
    if (a.chunk < schedule_.last_chunk()) {
      if (s.output_gradient != Item::there) return "its gradient isn't there";
      s.output_gradient = Item::used;
    }
    s.stash = Item::used;
    s.weight_stash = Item::there;
    if (a.chunk > 0) {
      (is_here(a.chunk - 1) ? state(a.chunk - 1, a.microbatch).output_gradient : s.input_gradient) = Item::there;
    }
    return "";
  }

  std::string backward_weight(const Action& a, State& s) {
    if (s.weight_stash == Item::missing) return "its backward_input has not run";
    if (s.weight_stash == Item::used) return "it ran before";
    int& next = next_weight_[static_cast<size_t>(a.chunk)];
    if (a.microbatch != next) return "the chunk's next weight gradient is of microbatch " + std::to_string(next);
    ++next;
    s.weight_stash = Item::used;
    return "";
  }

  std::string send(const Action& a, int to_chunk, Item& item) {
    if (const std::string problem = wrong_peer(a, to_chunk); !problem.empty()) return problem;
    if (item == Item::missing) return "what it sends has not been made";
    if (item == Item::used) return "it was sent before";
    item = Item::used;
    return "";
  }

  std::string recv(const Action& a, int from_chunk, Item& item) {
    if (const std::string problem = wrong_peer(a, from_chunk); !problem.empty()) return problem;
    if (item != Item::missing) return "it was received before";
    item = Item::there;
    return "";
  }

  std::string wrong_peer(const Action& a, int other_chunk) const {
    if (other_chunk < 0 || other_chunk >= schedule_.num_chunks) return "there is no chunk to exchange it with";
    if (is_here(other_chunk)) return "both chunks are of this rank";
    const int peer = schedule_.rank_of(other_chunk);
    return a.peer == peer ? "" : "the other chunk is of rank " + std::to_string(peer);
  }

  std::string left_over(int chunk, int j) {
    const State& s = state(chunk, j);
    if (s.stash == Item::missing) return "forward has not run";
    if (s.output == Item::there) return "the output was not sent";
    if (s.input == Item::there) return "the input was not used";
    if (schedule_.forward_only) return "";
    if (s.stash == Item::there) return "backward has not run";
    if (s.input_gradient == Item::there) return "the gradient was not sent";
    if (s.weight_stash == Item::there) return "backward_weight has not run";
    return "";
  }

  bool is_here(int chunk) const { return schedule_.rank_of(chunk) == rank_; }

  const Schedule& schedule_;
  const int rank_;
  std::vector<int> next_weight_;  // by chunk: the microbatch
  std::vector<State> places_;     // by chunk and microbatch
};

// The data of a transfer, the same for both sides: whether it is a gradient, and between which chunks.
std::pair<bool, Place> data_of(const Action& a) {
  switch (a.kind) {
    case ActionKind::send_activation: return {false, {a.chunk + 1, a.microbatch}};
    case ActionKind::recv_activation: return {false, {a.chunk, a.microbatch}};
    case ActionKind::send_gradient: return {true, {a.chunk, a.microbatch}};
    default: return {true, {a.chunk + 1, a.microbatch}};
  }
}

// Whether sends and receives of each ordered pair of ranks meet.
std::string check_transfers(const Schedule& schedule) {
  std::map<std::pair<int, int>, std::pair<std::vector<Action>, std::vector<Action>>> ways;
  for (int r = 0; r < schedule.num_ranks; ++r) {
    for (const Action& action : schedule.program(r)) {
      if (is_send(action.kind)) ways[{r, action.peer}].first.push_back(action);
      if (is_recv(action.kind)) ways[{action.peer, r}].second.push_back(action);
    }
  }
  for (const auto& [way, both] : ways) {
    const auto& [sends, recvs] = both;
    const std::string where = "from rank " + std::to_string(way.first) + " to rank " + std::to_string(way.second);
    for (size_t i = 0; i < std::max(sends.size(), recvs.size()); ++i) {
      if (i >= recvs.size()) return where + ": " + sends[i].str() + " has no receive";
      if (i >= sends.size()) return where + ": " + recvs[i].str() + " has no send";
      if (data_of(sends[i]) != data_of(recvs[i])) return where + ": " + sends[i].str() + " meets " + recvs[i].str();
    }
  }
  return "";
}

std::string check_form(const Schedule& schedule) {
  if (schedule.num_ranks < 1 || schedule.num_chunks < 1 || schedule.num_microbatches < 1) return "it is empty";
  if (schedule.programs.size() != static_cast<size_t>(schedule.num_ranks)) return "not one program for each rank";
  if (schedule.rank_of_chunk.size() != static_cast<size_t>(schedule.num_chunks)) return "not one rank for each chunk";
  for (const int rank : schedule.rank_of_chunk) {
    if (rank < 0 || rank >= schedule.num_ranks) return "a chunk lies on a rank that isn't there";
  }
  return "";
}

std::string first_violation(const Schedule& schedule) {
  if (std::string form = check_form(schedule); !form.empty()) return form;
  for (int r = 0; r < schedule.num_ranks; ++r) {
    if (std::string problem = RankCheck(schedule, r).run(); !problem.empty()) return problem;
  }
  if (std::string problem = check_transfers(schedule); !problem.empty()) return problem;
  return find_deadlock(schedule);
}

}  // namespace

CheckReport check(const Schedule& schedule) {
  CheckReport report{.violation = first_violation(schedule), .peak_stashes = {}};
  for (int r = 0; report.ok() && r < schedule.num_ranks; ++r) report.peak_stashes.push_back(peak_stashes(schedule, r));
  return report;
}

}  // namespace trireme
