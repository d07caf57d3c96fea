#include "tests/oracle/moe_golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>

namespace trireme::golden {

namespace {

std::string file(const std::string& name) {
  const char* moved = std::getenv("TRIREME_SOURCE_DIR");
  return std::string(moved != nullptr ? moved : TRIREME_SOURCE_DIR) + "/tests/oracle/golden/moe_layer/" + name +
         ".safetensors";
}

template <class T>
T one_of(const std::string& word, const std::map<std::string, T>& values) {
  return values.at(word);
}

}  // namespace

MoeGolden::MoeGolden(const std::string& name) : reader_(file(name)) {}

void expect_near(const std::vector<double>& got, const std::vector<double>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(difference), kBound * std::sqrt(norm)) << what;
}

ModelConfig model_of(const MoeGolden& golden) {
  ModelConfig model;
  model.family = ModelFamily::qwen3_moe;
  model.hidden_size = kHidden;
  model.num_layers = 1;
  model.vocab_size = 4096;
  model.experts.num_experts = kExperts;
  model.experts.ffn_size = kWidth;
  model.experts.top_k = golden.whole("top_k");
  model.experts.scoring = one_of<RouterScoring>(
      golden.setting("scoring"), {{"softmax", RouterScoring::softmax}, {"sigmoid", RouterScoring::sigmoid}});
  model.experts.score_bias = golden.flag("score_bias");
  model.experts.normalize = golden.flag("normalize");
  model.experts.scaling = golden.number("scaling");
  model.experts.num_groups = golden.whole("num_groups");
  model.experts.groups_per_token = golden.whole("groups_per_token");
  model.experts.group_score = one_of<GroupScore>(
      golden.setting("group_score"), {{"best", GroupScore::best}, {"sum_of_best_two", GroupScore::sum_of_best_two}});
  return model;
}

MoeConfig moe_of(const MoeGolden& golden) {
  MoeConfig moe;
  moe.router = one_of<MoeRouter>(golden.setting("router"), {{"topk", MoeRouter::topk},
                                                            {"switch_top1", MoeRouter::switch_top1},
                                                            {"base", MoeRouter::base},
                                                            {"expert_choice", MoeRouter::expert_choice},
                                                            {"hash", MoeRouter::hash}});
  moe.aux_scope = one_of<AuxScope>(
      golden.setting("aux_scope"),
      {{"sequence", AuxScope::sequence}, {"microbatch", AuxScope::microbatch}, {"global", AuxScope::global}});
  moe.aux_loss_coef = golden.number("aux_loss_coef");
  moe.z_loss_coef = golden.number("z_loss_coef");
  if (golden.number("capacity_factor") > 0) moe.capacity_factor = golden.number("capacity_factor");
  moe.drop = one_of<DropPolicy>(golden.setting("drop"),
                                {{"probability", DropPolicy::probability}, {"position", DropPolicy::position}});
  moe.balance = *moe.aux_loss_coef > 0 ? MoeBalance::aux : MoeBalance::none;
  return moe;
}

}  // namespace trireme::golden
