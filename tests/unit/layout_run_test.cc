// Whole tensors out of what ranks hold, and the measure by which runs are compared. Whole layouts: tests/parallel.
#include "launcher/layout_run.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/ops/cross_entropy.h"
#include "launcher/verify.h"

namespace trireme {
namespace {

TEST(CompareTensors, MeasuresAgainstTheNormOrTheFloor) {
  const GlobalTensors reference = {{"large", {3, 4}}, {"small", {0, 0}}, {"same", {1, 1}}};
  GlobalTensors tensors = reference;
  tensors["large"] = {3, 4.5};    // 0.5 of 5
  tensors["small"] = {1e-4f, 0};  // of the floor 5e-4
  const std::vector<TensorError> errors = compare_tensors(tensors, reference);
  ASSERT_EQ(errors.size(), 3u);
  EXPECT_EQ(errors[0].name, "small");
  EXPECT_NEAR(errors[0].error, 0.2, 1e-6);
  EXPECT_EQ(errors[1].name, "large");
  EXPECT_NEAR(errors[1].error, 0.1, 1e-12);
  EXPECT_EQ(errors[2].error, 0);
}

TEST(CompareTensors, WhatIsMissingOrNotANumberIsInfinitelyWrong) {
  const GlobalTensors reference = {{"a", {1}}};
  EXPECT_TRUE(std::isinf(compare_tensors({}, reference).front().error));
  EXPECT_TRUE(std::isinf(compare_tensors({{"a", {NAN}}}, reference).front().error));
  EXPECT_TRUE(std::isinf(compare_tensors({{"a", {1, 2}}}, reference).front().error));
  EXPECT_TRUE(std::isinf(compare_tensors({{"a", {1}}, {"b", {1}}}, reference).front().error));
}

TEST(CompareTensors, SaysWhatDidNotMove) {
  const GlobalTensors before = {{"a", {1, 1}}, {"b", {1, 1}}, {"c", {1, 1}}};
  const GlobalTensors after = {{"a", {1.001f, 1}}, {"b", {1.00001f, 1}}, {"c", {1, 1}}};
  const GlobalTensors gradients = {{"a", {1, 1}}, {"b", {1, 1}}, {"c", {1e-6f, 1e-6f}}};
  EXPECT_EQ(unmoved(before, after, gradients, 1e-3, 1e-5), std::vector<std::string>{"b"});
  EXPECT_EQ(unmoved(before, after, gradients, 1e-3, 2), std::vector<std::string>{}) << "too small for Adam";
}

// What passes, and what must not.
TEST(VerifyReport, FailsOnEachOfItsParts) {
  VerifyReport good;
  good.layout.gradients = {{"a", 9e-6, 1}};
  good.layout.weights = {{"a", 0, 1}};
  EXPECT_TRUE(good.passed());
  const auto with = [&](auto&& change) {
    VerifyReport report = good;
    change(report.layout);
    return report.passed();
  };
  EXPECT_FALSE(with([](LayoutComparison& c) { c.loss = 2e-5; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.grad_norm = 2e-5; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.gradients.front().error = 2e-5; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.weights.front().error = 2e-5; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.unmoved = {"a"}; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.findings = {"divergence"}; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.initial = {"other values"}; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.experts = {"other loads"}; }));
  EXPECT_FALSE(with([](LayoutComparison& c) { c.choices.found = true; }));

  VerifyReport bf16 = good;
  bf16.exact = false;
  bf16.rounding.gradients = {{"a", 0.02, 1}};
  bf16.layout.gradients = {{"a", 0.041, 1}};
  EXPECT_TRUE(bf16.passed()) << "twice the rounding of one rank, and 1e-3";
  bf16.layout.gradients = {{"a", 0.042, 1}};
  EXPECT_FALSE(bf16.passed());
  EXPECT_NE(bf16.str().find("DOES NOT"), std::string::npos);
}

// Where rounding may have sent tokens to other experts, the report says that it can't tell, and what can.
TEST(VerifyReport, SaysWhenChoicesOfExpertsBlurIt) {
  const auto has = [](const VerifyReport& report, const char* text) {
    return report.str().find(text) != std::string::npos;
  };
  VerifyReport report;
  report.layout.choices = {.found = true, .near_tie = true, .text = "3 tokens"};
  EXPECT_FALSE(report.passed());
  EXPECT_TRUE(has(report, "3 tokens") && has(report, "NOT DECIDED") && has(report, "run.seed"));
  report.layout.choices.near_tie = false;
  EXPECT_TRUE(has(report, "3 tokens") && has(report, "DOES NOT TRAIN")) << "not rounding";

  VerifyReport bf16;
  bf16.exact = false;
  bf16.layout.initial = {"rounded"};
  bf16.layout.experts = {"rounded"};
  EXPECT_TRUE(bf16.passed());
  EXPECT_FALSE(bf16.is_blurred());
  bf16.rounding.choices = {.found = true, .step = 1, .text = "4 tokens"};
  EXPECT_FALSE(bf16.is_blurred()) << "behind the gradients that are compared";
  EXPECT_TRUE(has(bf16, "the layout trains as one rank does"));
  bf16.rounding.choices.step = 0;
  EXPECT_TRUE(bf16.passed());
  EXPECT_TRUE(has(bf16, "4 tokens") && has(bf16, "precision.compute=fp32") && has(bf16, "NOT SHOWN"));
  bf16.layout.gradients = {{"a", 2, 1}};
  EXPECT_FALSE(bf16.passed());
  EXPECT_TRUE(has(bf16, "precision.compute=fp32") && has(bf16, "BY MORE THAN ROUNDING"));
}

TEST(RoutingTable, TellsTheFirstDifferenceAndWhetherItIsATie) {
  Config config;
  config.batch.global = 2;
  config.data.sequence_length = 3;
  RoutingTable reference(config, /*steps=*/2, /*layers=*/2);
  for (int64_t place = 0; place < 24; ++place) {
    reference.record(place / 12, place / 6 % 2, place % 6, {1, 0}, place == 16 ? 1e-6 : 0.5);
  }
  RoutingTable table = reference;
  table.record(0, 0, 5, {0, 1}, 0.5);
  EXPECT_FALSE(table.compare(reference).found) << "the order of a token's experts doesn't matter";
  table.record(1, 0, 4, {0, 2}, 0.5);
  RoutingTable::Difference difference = table.compare(reference);
  EXPECT_TRUE(difference.found && difference.near_tie);
  EXPECT_EQ(difference.step, 1);
  EXPECT_EQ(difference.text.find("1 tokens chose other experts than on one rank, first in step 2, layer 0 "), 0u)
      << difference.text;
  table.record(1, 1, 0, {3, 2}, 0.5);
  EXPECT_TRUE(table.compare(reference).near_tie) << "what comes behind follows";
  table.record(1, 0, 0, {0, 2}, 1e-6);
  EXPECT_FALSE(table.compare(reference).near_tie) << "the reference had no tie there";
}

TEST(LayoutInput, IsAFunctionOfSeedAndSizes) {
  Config config;
  config.model.vocab_size = 50;
  config.batch = {.global = 6, .micro = 1};
  config.data = {.sequence_length = 20, .mask_documents = true};
  const LayoutInput a = make_layout_input(config, 2, 1);
  EXPECT_EQ(a.tokens, make_layout_input(config, 2, 1).tokens);
  EXPECT_NE(a.tokens, make_layout_input(config, 2, 2).tokens);
  ASSERT_EQ(a.labels.size(), 240u);
  int64_t ignored = 0;
  for (size_t i = 0; i < a.labels.size(); ++i) {
    EXPECT_LT(a.tokens[i], 50);
    ignored += a.labels[i] == ops::kIgnoredLabel;
    const auto place = static_cast<int32_t>(i % 20);
    EXPECT_EQ(a.positions[i], place - a.document_start[i]);
    EXPECT_EQ(i / 20 % 6 == 2 && a.labels[i] != ops::kIgnoredLabel, false) << "one sequence without labels";
  }
  EXPECT_GT(ignored, 40);
  EXPECT_LT(ignored, 100);
}

}  // namespace
}  // namespace trireme
