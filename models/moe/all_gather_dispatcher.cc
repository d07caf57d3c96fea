#include <vector>

#include "core/ops/elementwise.h"
#include "core/ops/expert_rows.h"
#include "models/moe/dispatcher.h"

namespace trireme {

namespace {

// Every rank's rows are padded to as many, which no expert is chosen for.
class AllGatherDispatcher final : public Dispatcher {
 public:
  AllGatherDispatcher(const MoeSetup& setup, int64_t num_experts)
      : comm_(*setup.dispatch),
        num_ranks_(comm_.size()),
        num_experts_(num_experts),
        num_local_(num_experts / setup.expert_degree),
        first_local_(num_local_ * setup.expert_coordinate) {}

  DispatchPlan plan(Stream& stream, const Tensor& experts, int64_t max_tokens) const override {
    const int64_t slots = experts.dim(1);
    Tensor own = Tensor::empty(stream, {max_tokens, slots}, DType::i32);
    ops::fill(stream, own, -1);
    Tensor used = own.slice(0, experts.dim(0));
    if (experts.numel() > 0) ops::copy(stream, experts, used);
    Tensor all = Tensor::empty(stream, {num_ranks_ * max_tokens, slots}, DType::i32);
    comm_.all_gather(own, all, stream)->wait(stream);

    Tensor counts = Tensor::empty(stream, {num_experts_}, DType::i64);
    Tensor order = Tensor::empty(stream, {all.numel()}, DType::i32);
    Tensor position = Tensor::empty(stream, all.shape(), DType::i32);
    ops::sort_by_expert(stream, all, num_experts_, counts, order, position);
    std::vector<int64_t> of_expert(static_cast<size_t>(num_experts_));
    ops::copy_to_host(stream, counts, of_expert.data());
    stream.synchronize();

    DispatchPlan plan;
    int64_t before = 0;  // rows of experts below this rank's
    for (int64_t e = 0; e < first_local_; ++e) before += of_expert[static_cast<size_t>(e)];
    plan.counts = Tensor::empty_on_host(stream, {1 + num_local_ + 1}, DType::i64);
    *plan.counts.data<int64_t>() = 0;  // rows don't travel from rank to rank
    int64_t* offsets = plan.counts.data<int64_t>() + 1;
    offsets[0] = 0;
    for (int64_t e = 0; e < num_local_; ++e) {
      offsets[e + 1] = offsets[e] + of_expert[static_cast<size_t>(first_local_ + e)];
    }
    plan.order = order.slice(before, before + offsets[num_local_]);

    constexpr int32_t kNowhere = -(1 << 30);  // whatever it is added to stays below 0
    std::vector<int32_t> shifts(static_cast<size_t>(num_experts_), kNowhere);
    for (int64_t e = first_local_; e < first_local_ + num_local_; ++e) {
      shifts[static_cast<size_t>(e)] = static_cast<int32_t>(-before);
    }
    Tensor shift = Tensor::empty(stream, {1, num_experts_}, DType::i32);
    ops::copy_from_host(stream, shifts.data(), shift);
    plan.position = Tensor::empty(stream, position.shape(), DType::i32);
    ops::shift_positions(stream, position, all, shift, plan.position);
    return plan;
  }

  Arriving send(Stream& stream, const DispatchPlan& plan, const Tensor& x, int64_t slots) const override {
    const int64_t rows = plan.position.numel() / slots / num_ranks_;
    Tensor own = x;
    if (x.dim(0) < rows) {
      own = Tensor::empty(stream, {rows, x.dim(1)}, x.dtype());
      ops::fill(stream, own, 0);
      Tensor used = own.slice(0, x.dim(0));
      if (x.numel() > 0) ops::copy(stream, x, used);
    }
    Arriving arriving{.rows = Tensor::empty(stream, {num_ranks_ * rows, x.dim(1)}, x.dtype()), .slots = slots};
    arriving.work = comm_.all_gather(own, arriving.rows, stream);
    return arriving;
  }

  Tensor receive(Stream& stream, const DispatchPlan& plan, Arriving arriving) const override {
    arriving.work->wait(stream);
    Tensor rows = Tensor::empty(stream, {plan.num_rows(), arriving.rows.dim(1)}, arriving.rows.dtype());
    ops::gather_rows(stream, arriving.rows, plan.order, arriving.slots, rows);
    return rows;
  }

  Arriving send_back(Stream& stream, const DispatchPlan& plan, const Tensor& rows, int64_t slots) const override {
    const int64_t n = plan.position.numel() / slots;
    Tensor summands = Tensor::empty(stream, {n, rows.dim(1)}, rows.dtype());
    ops::sum_rows(stream, rows, plan.position.view({n, slots}), summands, /*accumulate=*/false);
    Arriving arriving{.rows = Tensor::empty(stream, {n / num_ranks_, rows.dim(1)}, rows.dtype()), .slots = slots};
    arriving.work = comm_.reduce_scatter(summands, arriving.rows, ReduceOp::sum, stream);
    return arriving;
  }

  void sum(Stream& stream, const DispatchPlan&, Arriving arriving, Tensor& y) const override {
    arriving.work->wait(stream);
    if (y.numel() > 0) ops::copy(stream, arriving.rows.slice(0, y.dim(0)), y);
  }

 private:
  Communicator& comm_;
  int64_t num_ranks_;
  int64_t num_experts_;
  int64_t num_local_;
  int64_t first_local_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_all_gather_dispatcher(const MoeSetup& setup, int64_t num_experts) {
  return std::make_unique<AllGatherDispatcher>(setup, num_experts);
}

}  // namespace trireme
