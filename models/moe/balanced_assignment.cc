#include "models/moe/balanced_assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace trireme {

namespace {

// Costs and distances of what there is stay below E · 2^45.
constexpr int64_t kUnreached = int64_t{1} << 61;
constexpr int64_t kNoMove = int64_t{1} << 62;
constexpr double kSteps = 0x1p44;  // of the range of scores

// scores as whole numbers in [0, kSteps].
std::vector<int64_t> whole_scores(const ScoreTable& scores) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const float value : scores.values) {
    if (!std::isfinite(value)) continue;
    low = std::min<double>(low, value);
    high = std::max<double>(high, value);
  }
  std::vector<int64_t> whole(scores.values.size(), 0);
  if (!(low < high)) return whole;
  const double scale = kSteps / (high - low);
  for (size_t i = 0; i < whole.size(); ++i) {
    const double value = scores.values[i];
    const double inside = std::isnan(value) ? low : std::clamp(value, low, high);
    whole[i] = std::llround((inside - low) * scale);
  }
  return whole;
}

// A flow of least cost among nodes: the experts; the *pool*, which holds the N mod E tokens that make some experts one
// larger than others; and the sink. An expert keeps floor(N/E) tokens for itself and may give one to the pool. A move of
// token t from u to v costs scores[t, u] - scores[t, v]; the edge u -> v is the cheapest move of a token that is at u.
//
// Ahuja, Magnanti, Orlin, "Network Flows" (1993), section 9.7. Potentials keep every edge's cost + potential[from] -
// potential[to] at 0 or more; so at the end there is no cycle of moves that gains anything, which is optimality.
class Flow {
 public:
  Flow(const ScoreTable& scores, std::span<int32_t> experts);
  void solve();

 private:
  struct Move {
    int64_t cost;
    int32_t token;
    // For heaps, whose top is the greatest: the cheapest, and of these the lowest token.
    bool operator<(const Move& other) const { return cost != other.cost ? cost > other.cost : token > other.token; }
  };
  using Moves = std::vector<Move>;  // a heap; moves of tokens that have left are removed when they come up

  size_t edge(size_t u, size_t v) const { return u * num_experts_ + v; }
  int64_t gain(int32_t token, size_t u, size_t v) const {
    const size_t row = static_cast<size_t>(token) * num_experts_;
    return whole_[row + u] - whole_[row + v];
  }
  void start_at_the_best();
  void make_heaps();
  bool find_path();
  void relax(size_t from);
  size_t nearest_open() const;
  void follow_path();
  void move(int32_t token, size_t v);
  void settle(size_t u);

  size_t num_experts_;
  size_t pool_;
  size_t sink_;
  std::span<int32_t> experts_;
  std::vector<int64_t> whole_;
  std::vector<Moves> moves_;      // [E, E]
  std::vector<int64_t> cost_;     // [E, E]: that of the top of each heap, kNoMove: none
  std::vector<int64_t> surplus_;  // [E]: tokens above floor(N/E) that are not in the pool
  std::vector<char> pooled_;      // [E]: whether the pool has a token of the expert
  int64_t pool_room_;
  std::vector<int64_t> potential_, distance_;  // [E + 2]
  std::vector<size_t> previous_;               // [E + 2]; itself at the start of a path
  std::vector<int64_t> done_;                  // [E + 2]: kUnreached where a node's distance is final, else 0
};

Flow::Flow(const ScoreTable& scores, std::span<int32_t> experts)
    : num_experts_(static_cast<size_t>(scores.num_experts)),
      pool_(num_experts_),
      sink_(num_experts_ + 1),
      experts_(experts),
      whole_(whole_scores(scores)),
      moves_(num_experts_ * num_experts_),
      cost_(num_experts_ * num_experts_, kNoMove),
      surplus_(num_experts_, -(scores.num_tokens / scores.num_experts)),
      pooled_(num_experts_, 0),
      pool_room_(scores.num_tokens % scores.num_experts),
      potential_(num_experts_ + 2, 0),
      distance_(num_experts_ + 2),
      previous_(num_experts_ + 2),
      done_(num_experts_ + 2) {
  start_at_the_best();
  make_heaps();
}

void Flow::start_at_the_best() {
  for (size_t t = 0; t < experts_.size(); ++t) {
    const auto row = whole_.begin() + static_cast<int64_t>(t * num_experts_);
    const int64_t best = std::max_element(row, row + static_cast<int64_t>(num_experts_)) - row;
    experts_[t] = static_cast<int32_t>(best);
    ++surplus_[static_cast<size_t>(best)];
  }
}

void Flow::make_heaps() {
  const int64_t even = static_cast<int64_t>(experts_.size() / num_experts_);
  for (size_t u = 0; u < num_experts_; ++u) {
    for (size_t v = 0; v < num_experts_; ++v) moves_[edge(u, v)].reserve(static_cast<size_t>(surplus_[u] + even));
  }
  for (size_t t = 0; t < experts_.size(); ++t) {
    const auto token = static_cast<int32_t>(t);
    const auto u = static_cast<size_t>(experts_[t]);
    for (size_t v = 0; v < num_experts_; ++v) {
      if (v != u) moves_[edge(u, v)].push_back({gain(token, u, v), token});
    }
  }
  for (Moves& heap : moves_) std::make_heap(heap.begin(), heap.end());
  for (size_t u = 0; u < num_experts_; ++u) settle(u);
}

// Makes the tops of u's heaps moves of tokens that are there.
void Flow::settle(size_t u) {
  for (size_t v = 0; v < num_experts_; ++v) {
    Moves& heap = moves_[edge(u, v)];
    while (!heap.empty() && static_cast<size_t>(experts_[static_cast<size_t>(heap.front().token)]) != u) {
      std::pop_heap(heap.begin(), heap.end());
      heap.pop_back();
    }
    cost_[edge(u, v)] = heap.empty() ? kNoMove : heap.front().cost;
  }
}

void Flow::relax(size_t from) {
  const int64_t here = distance_[from] + potential_[from];
  const auto reach = [&](size_t to, int64_t cost) {
    const int64_t there = here + cost - potential_[to];
    if (there >= distance_[to]) return;
    distance_[to] = there;
    previous_[to] = from;
  };
  if (from == pool_) {
    for (size_t v = 0; v < num_experts_; ++v) {
      if (pooled_[v]) reach(v, 0);
    }
    if (pool_room_ > 0) reach(sink_, 0);
    return;
  }
  const int64_t* cost = &cost_[edge(from, 0)];
  const int64_t* potential = potential_.data();
  int64_t* distance = distance_.data();
  size_t* previous = previous_.data();
#pragma omp simd
  for (size_t v = 0; v < num_experts_; ++v) {
    const int64_t there = here + cost[v] - potential[v];
    const bool nearer = there < distance[v];
    distance[v] = nearer ? there : distance[v];
    previous[v] = nearer ? from : previous[v];
  }
  if (!pooled_[from]) reach(pool_, 0);
  if (surplus_[from] < 0) reach(sink_, 0);
}

// The nearest node that is not done, the lower one of equals; the sink where it is as near.
size_t Flow::nearest_open() const {
  const int64_t* distance = distance_.data();
  const int64_t* done = done_.data();
  int64_t least = distance[sink_];
#pragma omp simd reduction(min : least)
  for (size_t u = 0; u <= pool_; ++u) least = std::min(least, distance[u] | done[u]);
  if (least == distance[sink_]) return sink_;
  size_t u = 0;
  while ((distance[u] | done[u]) != least) ++u;
  return u;
}

// Dijkstra's, from all experts with a surplus to the sink. False where no surplus is left.
bool Flow::find_path() {
  std::fill(distance_.begin(), distance_.end(), kUnreached);
  std::fill(done_.begin(), done_.end(), 0);
  bool any = false;
  for (size_t u = 0; u < num_experts_; ++u) {
    if (surplus_[u] <= 0) continue;
    any = true;
    distance_[u] = 0;  // where a path may start the potential has stayed 0
    previous_[u] = u;
  }
  if (!any) return false;
  for (size_t u = nearest_open(); u != sink_; u = nearest_open()) {
    done_[u] = kUnreached;
    relax(u);
  }
  TRIREME_CHECK(distance_[sink_] < kUnreached);
  for (size_t u = 0; u <= sink_; ++u) potential_[u] += std::min(distance_[u], distance_[sink_]);
  return true;
}

void Flow::move(int32_t token, size_t v) {
  experts_[static_cast<size_t>(token)] = static_cast<int32_t>(v);
  for (size_t w = 0; w < num_experts_; ++w) {
    if (w == v) continue;
    Moves& heap = moves_[edge(v, w)];
    heap.push_back({gain(token, v, w), token});
    std::push_heap(heap.begin(), heap.end());
  }
}

// One unit along the path, from its end to its start.
void Flow::follow_path() {
  size_t to = sink_;
  while (true) {
    const size_t from = previous_[to];
    if (from == to) break;
    if (to == sink_) {
      from == pool_ ? --pool_room_ : ++surplus_[from];
    } else if (to == pool_) {
      pooled_[from] = 1;
    } else if (from == pool_) {
      pooled_[to] = 0;
    } else {
      move(moves_[edge(from, to)].front().token, to);
    }
    to = from;
  }
  --surplus_[to];
  for (size_t u = previous_[sink_];; u = previous_[u]) {
    if (u != pool_) settle(u);
    if (previous_[u] == u) break;
  }
}

void Flow::solve() {
  while (find_path()) follow_path();
}

}  // namespace

void assign_balanced(const ScoreTable& scores, std::span<int32_t> experts) {
  TRIREME_CHECK(static_cast<int64_t>(experts.size()) == scores.num_tokens);
  if (experts.empty()) return;
  Flow(scores, experts).solve();
}

void assign_greedily(const ScoreTable& scores, std::span<int32_t> experts) {
  TRIREME_CHECK(static_cast<int64_t>(experts.size()) == scores.num_tokens);
  for (size_t t = 0; t < experts.size(); ++t) {
    const std::span<const float> row = scores.row(static_cast<int64_t>(t));
    size_t best = 0;
    for (size_t e = 1; e < row.size(); ++e) {
      if (row[e] > row[best] || (std::isnan(row[best]) && !std::isnan(row[e]))) best = e;
    }
    experts[t] = static_cast<int32_t>(best);
  }
}

}  // namespace trireme
