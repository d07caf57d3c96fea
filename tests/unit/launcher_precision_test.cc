// The dtypes and the memory that follow from the `precision` section.
#include "launcher/precision.h"

#include <gtest/gtest.h>

#include "core/device/cpu_features.h"

namespace trireme {
namespace {

Precision resolve(ComputeType compute, MasterType master, StateType gradients, StateType states) {
  Config config;
  config.precision = {compute, master, gradients, states};
  return resolve_precision(config, Device{});
}

TEST(Precision, BytesOfAParameter) {
  const auto fp32 = StateType::fp32;
  const auto bf16 = StateType::bf16;
  struct Case {
    Precision precision;
    int64_t weight, gradient, optimizer;
    std::string text;
  };
  const std::vector<Case> cases = {
      {resolve(ComputeType::fp32, MasterType::fp32, fp32, fp32), 4, 4, 8, "compute f32, gradients f32, moments f32"},
      {resolve(ComputeType::fp32, MasterType::fp32, bf16, bf16), 4, 2, 4, "compute f32, gradients bf16, moments bf16"},
      {resolve(ComputeType::bf16, MasterType::fp32, fp32, fp32), 2, 4, 12,
       "compute bf16, master f32, gradients f32, moments f32"},
      {resolve(ComputeType::bf16, MasterType::fp32, fp32, bf16), 2, 4, 8,
       "compute bf16, master f32, gradients f32, moments bf16"},
      {resolve(ComputeType::bf16, MasterType::none, bf16, bf16), 2, 2, 4,
       "compute bf16, no master, gradients bf16, moments bf16"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(c.precision.str(), c.text);
    EXPECT_EQ(c.precision.weight_bytes(), c.weight) << c.text;
    EXPECT_EQ(c.precision.gradient_bytes(), c.gradient) << c.text;
    EXPECT_EQ(c.precision.optimizer_bytes(), c.optimizer) << c.text;
  }
}

TEST(Precision, AutomaticFollowsTheHardwareUnlessWeightsAreBf16) {
  const auto fp32 = StateType::fp32;
  const DType automatic = cpu_features().has_fast_bf16() ? DType::bf16 : DType::f32;
  EXPECT_EQ(resolve(ComputeType::automatic, MasterType::fp32, fp32, fp32).compute, automatic);
  EXPECT_EQ(resolve(ComputeType::automatic, MasterType::none, fp32, fp32).compute, DType::bf16);
}

}  // namespace
}  // namespace trireme
