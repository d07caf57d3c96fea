// What the layers with experts counted in one step, on the device: of each layer how often each expert was chosen, what was
// dropped, and sums for losses and metrics. A rank counts the tokens that it routes; layers of other pipeline stages stay
// 0, so that one sum over the world gives the whole model's.
#pragma once

#include <vector>

#include "core/config/config.h"
#include "core/tensor/tensor.h"
#include "models/moe/routing_watch.h"

namespace trireme {

class MoeStats {
 public:
  enum Sum : int64_t { kBalanceLoss, kSquaredLogSum, kEntropy, kNumSums };

  MoeStats() = default;  // of a dense model: no layers
  // Layers of the whole model, numbered in its order. Zeroed by `clear`.
  MoeStats(Stream& stream, const ModelConfig& config);

  int64_t num_layers() const { return num_layers_; }
  int64_t num_choices() const { return num_choices_; }  // E
  void clear(Stream& stream);

  // i64 [1, E]: slots that chose each expert, before anything was dropped.
  Tensor counts_of(int64_t layer) const { return counts_.flat_slice(layer * row(), {1, num_choices_}); }
  // Slots that lost their expert to its capacity, which the host decides; in the last column of `counts` once stored.
  void add_dropped(int64_t layer, int64_t n) { dropped_[static_cast<size_t>(layer)] += n; }
  void store_dropped(Stream& stream);
  // f64 [1]: Σ over microbatches of the balance loss as it enters the gradient, coefficient and share included.
  Tensor balance_loss_of(int64_t layer) const { return sums_.flat_slice(layer * kNumSums + kBalanceLoss, {1}); }
  // f64 [2] over tokens: Σ logsumexp(logits)², Σ entropy of the probabilities in nats.
  Tensor token_sums_of(int64_t layer) const { return sums_.flat_slice(layer * kNumSums + kSquaredLogSum, {2}); }

  // Who sees the decisions of this rank's routers; nullptr: nobody.
  void set_watch(RoutingWatch* watch) { watch_ = watch; }
  RoutingWatch* watch() const { return watch_; }

  Tensor& counts() { return counts_; }  // i64 [layers, E + 1]
  Tensor& sums() { return sums_; }      // f64 [layers, kNumSums]

 private:
  int64_t row() const { return num_choices_ + 1; }

  int64_t num_layers_ = 0;
  int64_t num_choices_ = 0;
  std::vector<int64_t> dropped_;
  Tensor counts_;
  Tensor sums_;
  RoutingWatch* watch_ = nullptr;
};

}  // namespace trireme
