// Choosers that decide on the host, over all tokens of a microbatch.
#include <algorithm>
#include <vector>

#include "core/ops/elementwise.h"
#include "core/ops/router.h"
#include "core/random/philox.h"
#include "models/moe/assignment.h"
#include "models/moe/balanced_assignment.h"
#include "models/moe/chooser.h"

namespace trireme {

namespace {

template <class T>
std::vector<T> to_host(Stream& stream, const Tensor& x) {
  std::vector<T> host(static_cast<size_t>(x.numel()));
  ops::copy_to_host(stream, x, host.data());
  stream.synchronize();
  return host;
}

// This rank's rows of a decision [N, K] over all tokens.
Tensor own_rows(Stream& stream, const Choice& choice, const std::vector<int32_t>& experts, int64_t slots) {
  const int64_t first = choice.rows.first_row(choice.microbatch.num_tokens());
  Tensor own = Tensor::empty(stream, {choice.scores.dim(0), slots}, DType::i32);
  if (own.numel() > 0) ops::copy_from_host(stream, experts.data() + first * slots, own);
  return own;
}

// f32 [N, E] of all tokens, on the host.
class AllScores {
 public:
  AllScores(Stream& stream, const Choice& choice, const Tensor& own)
      : device_(choice.rows.gather(stream, own, choice.microbatch.num_tokens())),
        values_(to_host<float>(stream, device_)) {}

  const Tensor& on_device() const { return device_; }
  ScoreTable table() const { return {values_, device_.dim(0), device_.dim(1)}; }

 private:
  Tensor device_;
  std::vector<float> values_;
};

class CapacityChooser final : public Chooser {
 public:
  CapacityChooser(const MoeConfig& moe, const ExpertsConfig& experts)
      : moe_(moe), experts_(experts), inner_(make_top_k_chooser(experts)) {}

  Chosen choose(Stream& stream, const Choice& choice) const override {
    const AllScores scores(stream, choice, choice.scores);
    const Choice whole{choice.microbatch, choice.rows, choice.logits, scores.on_device(), choice.bias};
    const std::vector<int32_t> wanted = to_host<int32_t>(stream, inner_->choose(stream, whole).experts);
    const int64_t num_tokens = choice.microbatch.num_tokens();
    const std::vector<int64_t> capacities =
        expert_capacities(*moe_.capacity_factor, experts_.top_k, num_tokens, experts_.num_experts,
                          experts_.num_choices() - experts_.num_experts, moe_.constant_share);
    std::vector<int32_t> kept = wanted;
    drop_over_capacity(moe_.drop, capacities, scores.table(), experts_.top_k, kept);
    Chosen chosen{own_rows(stream, choice, kept, experts_.top_k), own_rows(stream, choice, wanted, experts_.top_k)};
    const int64_t first = choice.rows.first_row(num_tokens) * experts_.top_k;
    for (int64_t i = first; i < first + chosen.experts.numel(); ++i) {
      chosen.num_dropped += kept[static_cast<size_t>(i)] != wanted[static_cast<size_t>(i)];
    }
    return chosen;
  }

 private:
  MoeConfig moe_;
  ExpertsConfig experts_;
  std::unique_ptr<Chooser> inner_;
};

class BaseChooser final : public Chooser {
 public:
  explicit BaseChooser(const ExpertsConfig& experts) : greedy_(make_top_k_chooser(experts)) {}

  Chosen choose(Stream& stream, const Choice& choice) const override {
    if (!choice.microbatch.with_gradients) return greedy_->choose(stream, choice);
    const AllScores scores(stream, choice, choice.logits);
    std::vector<int32_t> experts(static_cast<size_t>(choice.microbatch.num_tokens()));
    assign_balanced(scores.table(), experts);
    const Tensor own = own_rows(stream, choice, experts, 1);
    return {own, own};
  }

 private:
  std::unique_ptr<Chooser> greedy_;
};

class ExpertChoiceChooser final : public Chooser {
 public:
  ExpertChoiceChooser(const MoeConfig& moe, const ExpertsConfig& experts)
      : factor_(moe.capacity_factor.value_or(1.0)), experts_(experts) {}

  Chosen choose(Stream& stream, const Choice& choice) const override {
    const AllScores scores(stream, choice, choice.scores);
    const int64_t num_tokens = choice.microbatch.num_tokens();
    std::vector<int32_t> experts(static_cast<size_t>(num_tokens * experts_.num_experts));
    choose_by_experts(scores.table(), expert_capacity(factor_, experts_.top_k, num_tokens, experts_.num_experts),
                      experts);
    const Tensor own = own_rows(stream, choice, experts, experts_.num_experts);
    return {own, own};
  }

 private:
  double factor_;
  ExpertsConfig experts_;
};

class HashChooser final : public Chooser {
 public:
  HashChooser(const ExpertsConfig& experts, int64_t vocab_size, int64_t layer)
      : slots_(experts.top_k),
        table_(make_hash_table(random_key(0, "hash layer " + std::to_string(layer)), vocab_size, experts.num_experts,
                               experts.top_k)) {}

  Chosen choose(Stream& stream, const Choice& choice) const override {
    const std::vector<int32_t> ids = to_host<int32_t>(stream, choice.microbatch.tokens);
    std::vector<int32_t> experts(ids.size() * static_cast<size_t>(slots_));
    choose_by_hash(table_, slots_, ids, experts);
    const Tensor own = own_rows(stream, choice, experts, slots_);
    return {own, own};
  }

 private:
  int64_t slots_;
  std::vector<int32_t> table_;
};

}  // namespace

std::unique_ptr<Chooser> make_capacity_chooser(const MoeConfig& moe, const ExpertsConfig& experts) {
  return std::make_unique<CapacityChooser>(moe, experts);
}

std::unique_ptr<Chooser> make_base_chooser(const ExpertsConfig& experts) {
  return std::make_unique<BaseChooser>(experts);
}

std::unique_ptr<Chooser> make_expert_choice_chooser(const MoeConfig& moe, const ExpertsConfig& experts) {
  return std::make_unique<ExpertChoiceChooser>(moe, experts);
}

std::unique_ptr<Chooser> make_hash_chooser(const ExpertsConfig& experts, int64_t vocab_size, int64_t layer) {
  return std::make_unique<HashChooser>(experts, vocab_size, layer);
}

}  // namespace trireme
