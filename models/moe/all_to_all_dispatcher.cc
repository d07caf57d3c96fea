#include <vector>

#include "core/ops/elementwise.h"
#include "core/ops/expert_rows.h"
#include "models/moe/dispatcher.h"

namespace trireme {

namespace {

Tensor to_device(Stream& stream, const std::vector<int32_t>& numbers, Shape shape) {
  Tensor x = Tensor::empty(stream, shape, DType::i32);
  ops::copy_from_host(stream, numbers.data(), x);
  return x;
}

// The same counts in elements of rows with `width` columns.
std::vector<int64_t> scaled(std::span<const int64_t> counts, int64_t width) {
  std::vector<int64_t> elements(counts.begin(), counts.end());
  for (int64_t& n : elements) n *= width;
  return elements;
}

// How many pairs of each rank of the group chose each expert.
class CountTable {
 public:
  CountTable(int64_t num_ranks, int64_t num_experts)
      : num_ranks_(num_ranks), num_experts_(num_experts), counts_(static_cast<size_t>(num_ranks * num_experts)) {}

  int64_t of(int64_t rank, int64_t expert) const { return counts_[static_cast<size_t>(rank * num_experts_ + expert)]; }
  // Over experts [begin, end).
  int64_t of(int64_t rank, int64_t begin, int64_t end) const {
    int64_t sum = 0;
    for (int64_t e = begin; e < end; ++e) sum += of(rank, e);
    return sum;
  }
  // From `own` i64 [E] of every rank, on the device.
  void exchange(Stream& stream, Communicator* comm, const Tensor& own) {
    Tensor all = own;
    if (comm != nullptr) {
      all = Tensor::empty(stream, {num_ranks_, num_experts_}, DType::i64);
      comm->all_gather(own, all, stream)->wait(stream);
    }
    ops::copy_to_host(stream, all, counts_.data());
    stream.synchronize();
  }

 private:
  int64_t num_ranks_;
  int64_t num_experts_;
  std::vector<int64_t> counts_;
};

class AllToAllDispatcher final : public Dispatcher {
 public:
  AllToAllDispatcher(const MoeSetup& setup, int64_t num_experts)
      : comm_(setup.dispatch),
        num_ranks_(comm_ == nullptr ? 1 : comm_->size()),
        rank_(comm_ == nullptr ? 0 : comm_->rank()),
        copies_(setup.expert_tensor),
        num_experts_(num_experts),
        num_local_(num_experts / setup.expert_degree),
        first_local_(num_local_ * setup.expert_coordinate) {}

  DispatchPlan plan(Stream& stream, const Tensor& experts, int64_t) const override {
    Tensor counts = Tensor::empty(stream, {num_experts_}, DType::i64);
    DispatchPlan plan;
    plan.order = Tensor::empty(stream, {experts.numel()}, DType::i32);
    plan.position = Tensor::empty(stream, experts.shape(), DType::i32);
    ops::sort_by_expert(stream, experts, num_experts_, counts, plan.order, plan.position);
    CountTable table(num_ranks_, num_experts_);
    table.exchange(stream, comm_, counts);

    plan.counts = Tensor::empty_on_host(stream, {1 + 2 * num_ranks_ + num_local_ + 1}, DType::i64);
    int64_t* numbers = plan.counts.data<int64_t>();
    *numbers++ = num_ranks_;
    for (int64_t r = 0; r < num_ranks_; ++r) {
      const int64_t first = r / copies_ * num_local_;
      *numbers++ = table.of(rank_, first, first + num_local_);
    }
    for (int64_t r = 0; r < num_ranks_; ++r) *numbers++ = table.of(r, first_local_, first_local_ + num_local_);
    *numbers++ = 0;
    for (int64_t e = 0; e < num_local_; ++e, ++numbers) {
      *numbers = *(numbers - 1);
      for (int64_t r = 0; r < num_ranks_; ++r) *numbers += table.of(r, first_local_ + e);
    }
    plan.order = plan.order.slice(0, table.of(rank_, 0, num_experts_));
    if (copies_ > 1) send_to_all_copies(stream, table, experts, plan);
    if (num_ranks_ > 1 && num_local_ > 1) arrange(stream, table, plan);
    return plan;
  }

  Arriving send(Stream& stream, const DispatchPlan& plan, const Tensor& x, int64_t slots) const override {
    Tensor leaving = Tensor::empty(stream, {plan.order.numel(), x.dim(1)}, x.dtype());
    ops::gather_rows(stream, x, plan.order, slots, leaving);
    return travel(stream, leaving, plan.to_ranks(), plan.from_ranks(), slots);
  }

  Tensor receive(Stream& stream, const DispatchPlan& plan, Arriving arriving) const override {
    if (arriving.work) arriving.work->wait(stream);
    return rearranged(stream, arriving.rows, plan.arrange);
  }

  Arriving send_back(Stream& stream, const DispatchPlan& plan, const Tensor& rows, int64_t slots) const override {
    return travel(stream, rearranged(stream, rows, plan.restore), plan.from_ranks(), plan.to_ranks(), slots);
  }

  void sum(Stream& stream, const DispatchPlan& plan, Arriving arriving, Tensor& y) const override {
    if (arriving.work) arriving.work->wait(stream);
    const Tensor position = plan.position.view({y.dim(0), arriving.slots * copies_});
    ops::sum_rows(stream, arriving.rows, position, y, /*accumulate=*/false);
  }

 private:
  // Sorted by expert, the pairs of one rank's experts stand together; they are sent once for each of its copies.
  void send_to_all_copies(Stream& stream, const CountTable& table, const Tensor& experts, DispatchPlan& plan) const {
    const Tensor sorted = plan.order;
    plan.order = Tensor::empty(stream, {sorted.numel() * copies_}, DType::i32);
    std::vector<int32_t> shifts(static_cast<size_t>(copies_ * num_experts_));
    int64_t from = 0;
    int64_t to = 0;
    for (int64_t owner = 0; owner < num_ranks_ / copies_; ++owner) {
      const int64_t n = table.of(rank_, owner * num_local_, (owner + 1) * num_local_);
      for (int64_t copy = 0; copy < copies_; ++copy, to += n) {
        for (int64_t e = owner * num_local_; e < (owner + 1) * num_local_; ++e) {
          shifts[static_cast<size_t>(copy * num_experts_ + e)] = static_cast<int32_t>(to - from);
        }
        Tensor part = plan.order.slice(to, to + n);
        if (n > 0) ops::copy(stream, sorted.slice(from, from + n), part);
      }
      from += n;
    }
    const Tensor own = plan.position;
    plan.position = Tensor::empty(stream, {own.dim(0), own.dim(1) * copies_}, DType::i32);
    ops::shift_positions(stream, own, experts, to_device(stream, shifts, {copies_, num_experts_}), plan.position);
  }

  // Rows arrive rank by rank, and of each rank expert by expert.
  void arrange(Stream& stream, const CountTable& table, DispatchPlan& plan) const {
    const int64_t n = plan.num_rows();
    // The arrived row at which each rank's next expert begins.
    std::vector<int64_t> next(static_cast<size_t>(num_ranks_), 0);
    for (int64_t r = 1; r < num_ranks_; ++r) {
      next[static_cast<size_t>(r)] = next[static_cast<size_t>(r - 1)] + plan.from_ranks()[static_cast<size_t>(r - 1)];
    }
    std::vector<int32_t> arrange;
    std::vector<int32_t> restore(static_cast<size_t>(n));
    arrange.reserve(static_cast<size_t>(n));
    for (int64_t e = 0; e < num_local_; ++e) {
      for (int64_t r = 0; r < num_ranks_; ++r) {
        int64_t& row = next[static_cast<size_t>(r)];
        for (const int64_t end = row + table.of(r, first_local_ + e); row < end; ++row) {
          restore[static_cast<size_t>(row)] = static_cast<int32_t>(arrange.size());
          arrange.push_back(static_cast<int32_t>(row));
        }
      }
    }
    plan.arrange = to_device(stream, arrange, {n});
    plan.restore = to_device(stream, restore, {n});
  }

  Arriving travel(Stream& stream, const Tensor& rows, std::span<const int64_t> to, std::span<const int64_t> from,
                  int64_t slots) const {
    if (num_ranks_ == 1) return {.rows = rows, .slots = slots};
    int64_t n = 0;
    for (const int64_t count : from) n += count;
    const int64_t width = rows.dim(1);
    Arriving arriving{.rows = Tensor::empty(stream, {n, width}, rows.dtype()), .slots = slots};
    arriving.work = comm_->all_to_all_v(rows, scaled(to, width), arriving.rows, scaled(from, width), stream);
    return arriving;
  }

  Tensor rearranged(Stream& stream, const Tensor& rows, const Tensor& order) const {
    if (!order.defined()) return rows;
    Tensor y = Tensor::empty(stream, rows.shape(), rows.dtype());
    ops::gather_rows(stream, rows, order, /*slots=*/1, y);
    return y;
  }

  Communicator* comm_;
  int64_t num_ranks_;
  int64_t rank_;
  int64_t copies_;  // T
  int64_t num_experts_;
  int64_t num_local_;
  int64_t first_local_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(const MoeSetup& setup, int64_t num_experts) {
  return std::make_unique<AllToAllDispatcher>(setup, num_experts);
}

}  // namespace trireme
