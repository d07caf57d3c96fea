#include "launcher/moe_step.h"

#include <algorithm>
#include <numeric>

#include "core/ops/elementwise.h"
#include "core/ops/router.h"

namespace trireme {

MoeStep::MoeStep(Transformer& model, const MoeConfig& config, Communicator& world)
    : model_(model), config_(config), world_(world) {}

void MoeStep::begin(Stream& stream) { model_.moe_stats().clear(stream); }

void MoeStep::finish(Stream& stream, const Tensor& non_finite) {
  MoeStats& stats = model_.moe_stats();
  if (stats.num_layers() == 0) return;
  if (config_.capacity_factor) stats.store_dropped(stream);
  if (world_.size() > 1) {
    const WorkHandle counts = world_.all_reduce(stats.counts(), ReduceOp::sum, stream);
    const WorkHandle sums = world_.all_reduce(stats.sums(), ReduceOp::sum, stream);
    counts->wait(stream);
    sums->wait(stream);
  }
  if (config_.balance != MoeBalance::bias) return;
  for (const auto& [layer, bias] : model_.score_biases()) {
    const Tensor counts = stats.counts_of(layer).view({stats.num_choices()});
    ops::update_balance_bias(stream, counts, static_cast<float>(config_.bias_update_rate), non_finite, bias->value);
  }
}

MoeStep::Readback MoeStep::start_readback(Stream& stream) const {
  MoeStats& stats = model_.moe_stats();
  if (stats.num_layers() == 0) return {};
  const auto to_host = [&](const Tensor& x) {
    Tensor host = Tensor::empty_on_host(stream, x.shape(), x.dtype());
    ops::copy_to_host(stream, x, host.raw());
    return host;
  };
  return {to_host(stats.counts()), to_host(stats.sums())};
}

MoeNumbers MoeStep::read(const Readback& readback, int64_t num_tokens) const {
  MoeNumbers numbers;
  const MoeStats& stats = model_.moe_stats();
  const int64_t* count = stats.num_layers() > 0 ? readback.counts.data<int64_t>() : nullptr;
  const auto tokens = static_cast<double>(std::max<int64_t>(1, num_tokens));
  for (int64_t layer = 0; layer < stats.num_layers(); ++layer, count += stats.num_choices() + 1) {
    std::vector<int64_t>& load = numbers.load.emplace_back(count, count + stats.num_choices());
    numbers.dropped += count[stats.num_choices()];
    const double mean = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) /
                        static_cast<double>(stats.num_choices());
    const auto most = static_cast<double>(*std::max_element(load.begin(), load.end()));
    if (mean > 0) numbers.imbalance = std::max(numbers.imbalance, most / mean);
    const double* sums = readback.sums.data<double>() + layer * MoeStats::kNumSums;
    numbers.balance_loss += sums[MoeStats::kBalanceLoss];
    numbers.z_loss += config_.z_loss_coef * sums[MoeStats::kSquaredLogSum] / tokens;
    numbers.entropy += sums[MoeStats::kEntropy] / tokens / static_cast<double>(stats.num_layers());
  }
  return numbers;
}

}  // namespace trireme
