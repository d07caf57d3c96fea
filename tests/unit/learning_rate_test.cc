#include "optim/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace trireme {
namespace {

OptimizerConfig make(LrScheduleType type, int64_t warmup, std::optional<int64_t> decay, double min_lr) {
  OptimizerConfig config;
  config.lr = 2.0;
  config.schedule.type = type;
  config.schedule.warmup_steps = warmup;
  config.schedule.decay_steps = decay;
  config.schedule.min_lr = min_lr;
  return config;
}

TEST(LearningRate, WarmsUpToThePeak) {
  for (const auto type :
       {LrScheduleType::constant, LrScheduleType::linear, LrScheduleType::cosine, LrScheduleType::wsd}) {
    const OptimizerConfig config = make(type, 4, std::nullopt, 0.0);
    EXPECT_DOUBLE_EQ(learning_rate(config, 100, 0), 0.5);
    EXPECT_DOUBLE_EQ(learning_rate(config, 100, 2), 1.5);
    EXPECT_DOUBLE_EQ(learning_rate(config, 100, 3), 2.0);
    EXPECT_DOUBLE_EQ(learning_rate(config, 100, 4), 2.0);
  }
}

TEST(LearningRate, Shapes) {
  EXPECT_DOUBLE_EQ(learning_rate(make(LrScheduleType::constant, 0, std::nullopt, 0.1), 100, 99), 2.0);
  // linear: from step 10 on over 80 steps to 0.4
  const OptimizerConfig linear = make(LrScheduleType::linear, 10, 90, 0.4);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 100, 50), 1.2);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 100, 90), 0.4);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 100, 99), 0.4);
  // cosine: values of torch.optim.lr_scheduler.CosineAnnealingLR(T_max=90, eta_min=0.4) at 0, 30, 45, 90
  const OptimizerConfig cosine = make(LrScheduleType::cosine, 10, std::nullopt, 0.4);
  EXPECT_NEAR(learning_rate(cosine, 100, 10), 2.0, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 100, 40), 1.6, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 100, 55), 1.2, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 100, 100), 0.4, 1e-12);
  // wsd: flat, then linear over the last 20 steps
  const OptimizerConfig wsd = make(LrScheduleType::wsd, 5, 20, 0.0);
  EXPECT_DOUBLE_EQ(learning_rate(wsd, 100, 80), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(wsd, 100, 90), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(wsd, 100, 100), 0.0);
  // its default decay is a tenth of the run
  EXPECT_DOUBLE_EQ(learning_rate(make(LrScheduleType::wsd, 0, std::nullopt, 0.0), 100, 95), 1.0);
}

}  // namespace
}  // namespace trireme
