#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "parallel/pipeline/make_schedule.h"

namespace trireme {

namespace {

// A send and its receive.
struct Pair {
  Action send, recv;
  size_t needed_at = 0;  // the computation of the receiver
  size_t posted_at = 0;  // before this computation
};

// What goes to another rank after a computation.
std::optional<Pair> transfer_after(const Schedule& schedule, const Action& action) {
  const auto [kind, chunk, j, peer] = action;
  const int mine = schedule.rank_of(chunk);
  if (kind == ActionKind::forward && chunk < schedule.last_chunk()) {
    const int to = schedule.rank_of(chunk + 1);
    if (to == mine) return {};
    return Pair{{ActionKind::send_activation, chunk, j, to}, {ActionKind::recv_activation, chunk + 1, j, mine}};
  }
  if ((kind == ActionKind::backward || kind == ActionKind::backward_input) && chunk > 0) {
    const int to = schedule.rank_of(chunk - 1);
    if (to == mine) return {};
    return Pair{{ActionKind::send_gradient, chunk, j, to}, {ActionKind::recv_gradient, chunk - 1, j, mine}};
  }
  return {};
}

// Where each chunk's forward and (first half of) backward of each microbatch stand in their rank's program.
class Places {
 public:
  explicit Places(const Schedule& schedule)
      : num_microbatches_(static_cast<size_t>(schedule.num_microbatches)),
        forward_(static_cast<size_t>(schedule.num_chunks) * num_microbatches_),
        backward_(forward_.size()) {
    for (const auto& program : schedule.programs) {
      for (size_t i = 0; i < program.size(); ++i) {
        const Action& action = program[i];
        TRIREME_CHECK(is_compute(action.kind), "this program has transfers already");
        if (action.kind == ActionKind::forward) forward_[index(action)] = i;
        if (action.kind == ActionKind::backward || action.kind == ActionKind::backward_input) {
          backward_[index(action)] = i;
        }
      }
    }
  }

  // The computation that needs what is received.
  size_t of(const Action& recv) const {
    return (recv.kind == ActionKind::recv_activation ? forward_ : backward_)[index(recv)];
  }

 private:
  size_t index(const Action& action) const {
    return static_cast<size_t>(action.chunk) * num_microbatches_ + static_cast<size_t>(action.microbatch);
  }

  size_t num_microbatches_;
  std::vector<size_t> forward_, backward_;
};

}  // namespace

void add_transfers(Schedule& schedule) {
  const Places places(schedule);
  std::map<std::pair<int, int>, std::vector<Pair>> ways;  // by sender and receiver
  for (int r = 0; r < schedule.num_ranks; ++r) {
    for (const Action& action : schedule.program(r)) {
      if (auto pair = transfer_after(schedule, action)) {
        pair->needed_at = places.of(pair->recv);
        ways[{r, pair->send.peer}].push_back(*pair);
      }
    }
  }

  // The receives that are posted before each computation, in order.
  std::vector<std::vector<std::vector<Action>>> posts(static_cast<size_t>(schedule.num_ranks));
  for (size_t r = 0; r < posts.size(); ++r) posts[r].resize(schedule.programs[r].size());
  for (auto& [way, pairs] : ways) {
    size_t latest = schedule.program(way.second).size();
    for (auto pair = pairs.rbegin(); pair != pairs.rend(); ++pair) {
      latest = std::min(latest, pair->needed_at > 0 ? pair->needed_at - 1 : 0);
      pair->posted_at = latest;
    }
    for (const Pair& pair : pairs) posts[static_cast<size_t>(way.second)][pair.posted_at].push_back(pair.recv);
  }

  for (size_t r = 0; r < posts.size(); ++r) {
    std::vector<Action> program;
    for (size_t i = 0; i < schedule.programs[r].size(); ++i) {
      const Action& action = schedule.programs[r][i];
      program.insert(program.end(), posts[r][i].begin(), posts[r][i].end());
      program.push_back(action);
      if (const auto pair = transfer_after(schedule, action)) program.push_back(pair->send);
    }
    schedule.programs[r] = std::move(program);
  }
}

}  // namespace trireme
