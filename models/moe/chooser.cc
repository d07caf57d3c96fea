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

  Tensor choose(Stream& stream, const Choice& choice) const override {
    Tensor experts = Tensor::empty(stream, {choice.scores.dim(0), rule_.top_k}, DType::i32);
    ops::choose_top_k(stream, choice.scores, choice.bias, rule_, experts);
    return experts;
  }

 private:
  ops::TopKRule rule_;
};

}  // namespace

std::unique_ptr<Chooser> make_top_k_chooser(const ExpertsConfig& experts) {
  return std::make_unique<TopKChooser>(experts);
}

std::unique_ptr<Chooser> make_chooser(const MoeConfig&, const ExpertsConfig& experts) {
  return make_top_k_chooser(experts);
}

}  // namespace trireme
