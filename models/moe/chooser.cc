#include "models/moe/chooser.h"

#include "core/ops/router.h"

namespace trireme {

namespace {

class TopKChooser final : public Chooser {
 public:
  explicit TopKChooser(const ExpertsConfig& experts)
      : rule_{.top_k = experts.top_k,
              .num_groups = experts.num_groups,
              .groups_per_token = experts.groups_per_token,
              .group_score = experts.group_score == GroupScore::best ? ops::GroupScoring::best
                                                                     : ops::GroupScoring::sum_of_best_two} {}

  Chosen choose(Stream& stream, const Choice& choice) const override {
    Tensor experts = Tensor::empty(stream, {choice.scores.dim(0), rule_.top_k}, DType::i32);
    ops::choose_top_k(stream, choice.scores, choice.bias, rule_, experts);
    return {experts, experts};
  }

 private:
  ops::TopKRule rule_;
};

}  // namespace

std::unique_ptr<Chooser> make_top_k_chooser(const ExpertsConfig& experts) {
  return std::make_unique<TopKChooser>(experts);
}

std::unique_ptr<Chooser> make_chooser(const MoeConfig& moe, const ModelConfig& model, int64_t layer) {
  switch (moe.router) {
    case MoeRouter::base: return make_base_chooser(model.experts);
    case MoeRouter::expert_choice: return make_expert_choice_chooser(moe, model.experts);
    case MoeRouter::hash: return make_hash_chooser(model.experts, model.vocab_size, layer);
    case MoeRouter::topk:
    case MoeRouter::switch_top1: break;
  }
  return moe.capacity_factor ? make_capacity_chooser(moe, model.experts) : make_top_k_chooser(model.experts);
}

}  // namespace trireme
