// Tokens travel to the ranks that have their experts, and back.
//
// A rank routes n tokens of K slots each; a *pair* (token r, slot k) is number r·K + k. What travels is a row for each pair
// whose slot chose one of the E real experts: the token's hidden state, or the pair's weight. Ranks of the dispatch group
// are expert × expert_tensor; where T = expert_tensor ranks each hold a part of an expert, a row goes to all of them, and
// the T partial results are added when they are back. The way there and the way back are transposes of each other, so
// backward uses the same plan: gradients of what came back are sent, and gradients of what was sent come back.
//
// Calls are collective over the dispatch group, whatever was chosen: a rank whose experts get nothing takes part.
#pragma once

#include <memory>
#include <span>

#include "core/ops/grouped_linear.h"
#include "models/moe/setup.h"
#include "parallel/stash.h"

namespace trireme {

// How the pairs of one microbatch (or a part of it) travel.
struct DispatchPlan {
  Tensor order;  // i32: the pair of each row that leaves, in the order of leaving
  // i32: where the rows of each pair come back, -1: nowhere; as many numbers for each pair as it has rows, pairs in order
  Tensor position;
  Tensor arrange;  // i32: which arrived row stands at each place, sorted by expert; undefined: as they arrive
  Tensor restore;  // i32: the inverse
  // i64 on the host: how many ranks are counted, rows to each of them, rows from each, then the offsets of local experts.
  Tensor counts;

  // Rows at the local experts: expert e has [offsets[e], offsets[e + 1]).
  ops::RowOffsets offsets() const { return numbers(1 + 2 * num_ranks()); }
  int64_t num_rows() const { return offsets().back(); }
  std::span<const int64_t> to_ranks() const { return numbers(1).first(num_ranks()); }
  std::span<const int64_t> from_ranks() const { return numbers(1 + num_ranks()).first(num_ranks()); }

  // From slot `first` of a stash on: kStashSlots of them.
  static constexpr int kStashSlots = 5;
  void put(Stash& stash, int first) const;
  static DispatchPlan get(const Stash& stash, int first);

 private:
  std::span<const int64_t> numbers(size_t from) const {
    return std::span<const int64_t>(counts.data<int64_t>(), static_cast<size_t>(counts.numel())).subspan(from);
  }
  size_t num_ranks() const { return static_cast<size_t>(*counts.data<int64_t>()); }
};

// Rows under way. `slots`: pairs for each row of what was sent.
struct Arriving {
  Tensor rows;
  WorkHandle work = nullptr;
  int64_t slots = 1;
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;

  // Where the pairs of `experts` i32 [n, K] go; n at most `max_tokens` on every rank. The host waits for the device.
  virtual DispatchPlan plan(Stream& stream, const Tensor& experts, int64_t max_tokens) const = 0;
  // x [n, C] with slots = K, or something [n·K, 1] of the pairs with slots = 1.
  virtual Arriving send(Stream& stream, const DispatchPlan& plan, const Tensor& x, int64_t slots) const = 0;
  // The rows of the local experts, sorted by expert: [num_rows, C].
  virtual Tensor receive(Stream& stream, const DispatchPlan& plan, Arriving arriving) const = 0;
  // Rows sorted by expert go back to where they came from; `slots` as they were sent.
  virtual Arriving send_back(Stream& stream, const DispatchPlan& plan, const Tensor& rows, int64_t slots) const = 0;
  // y[r] = the sum of what came back for row r of what was sent; fp32 sums in the order of slots and ranks.
  virtual void sum(Stream& stream, const DispatchPlan& plan, Arriving arriving, Tensor& y) const = 0;
};

// all_to_all_v after an exchange of counts: each row travels to the ranks of its expert only.
std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(const MoeSetup& setup, int64_t num_experts);
// all_gather there and reduce_scatter back: everybody sees all tokens, for groups in which most tokens have an expert on
// each rank anyway. Sums of ranks are rounded to the rows' dtype.
std::unique_ptr<Dispatcher> make_all_gather_dispatcher(const MoeSetup& setup, int64_t num_experts);
// The configured one.
std::unique_ptr<Dispatcher> make_dispatcher(const MoeSetup& setup, int64_t num_experts);

}  // namespace trireme
