// The per-element functions against <cmath> in fp64, over the whole range that they are used on.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "core/ops/math.h"

namespace trireme {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Worst {
  double relative = 0;
  double absolute = 0;
};

// The largest errors of f against `exact` at 400,001 points of [low, high].
Worst worst_error(const std::function<float(float)>& f, const std::function<double(double)>& exact, double low,
                  double high) {
  Worst worst;
  constexpr int kPoints = 400000;
  for (int i = 0; i <= kPoints; ++i) {
    const float x = static_cast<float>(low + (high - low) * i / kPoints);
    const double want = exact(static_cast<double>(x));
    const double error = std::abs(static_cast<double>(f(x)) - want);
    worst.absolute = std::max(worst.absolute, error);
    worst.relative = std::max(worst.relative, error / std::abs(want));
  }
  return worst;
}

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double exact_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double exact_gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

double slope(const std::function<double(double)>& f, double x) { return (f(x + 1e-5) - f(x - 1e-5)) / 2e-5; }

TEST(OpMath, ExpIsWithinOneUnitAndAHalf) {
  const auto f = [](float x) { return math::exp_between(x); };
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LT(worst_error(f, exact, -87.3, 88).relative, 1.8e-7);
  EXPECT_LT(worst_error(f, exact, -1, 1).relative, 1.8e-7);
}

TEST(OpMath, ExpAtTheEdges) {
  EXPECT_EQ(math::exp_of_nonpositive(0.0f), 1.0f);
  EXPECT_EQ(math::exp_of_nonpositive(-kInfinity), 0.0f);
  EXPECT_EQ(math::exp_of_nonpositive(-1000.0f), 0.0f);
  EXPECT_NEAR(math::exp_of_nonpositive(-87.5f), std::exp(-87.5), 1e-44);
  EXPECT_TRUE(std::isnan(math::exp_of_nonpositive(kNan)));
  EXPECT_TRUE(std::isnan(math::exp_between(kNan)));
}

TEST(OpMath, SigmoidAndItsComplementKeepRelativePrecision) {
  EXPECT_LT(worst_error([](float x) { return math::sigmoid(x).value; }, exact_sigmoid, -80, 80).relative, 3e-7);
  EXPECT_LT(worst_error([](float x) { return math::sigmoid(x).complement; }, [](double x) { return exact_sigmoid(-x); },
                        -80, 80)
                .relative,
            3e-7);
  EXPECT_EQ(math::sigmoid(kInfinity).value, 1.0f);
  EXPECT_NEAR(math::sigmoid(kInfinity).complement, 0.0, 1e-37);
  EXPECT_TRUE(std::isnan(math::sigmoid(kNan).value));
}

TEST(OpMath, NormalCdf) {
  const auto f = [](float x) { return math::normal_cdf(x).value; };
  EXPECT_LT(worst_error(f, exact_cdf, -12.5, 10).relative, 5e-7);
  EXPECT_LT(worst_error(f, exact_cdf, -12.5, 10).absolute, 2.5e-7);
  EXPECT_TRUE(std::isnan(math::normal_cdf(kNan).value));
  EXPECT_EQ(math::gelu_erf(1e30f), 1e30f);
  EXPECT_NEAR(math::gelu_erf(-1e5f), 0.0, 1e-30);
}

TEST(OpMath, Gelu) {
  EXPECT_LT(worst_error([](float x) { return math::gelu_tanh(x); }, exact_gelu_tanh, -6, 6).absolute, 8e-7);
  EXPECT_LT(
      worst_error([](float x) { return math::gelu_erf(x); }, [](double x) { return x * exact_cdf(x); }, -6, 6).absolute,
      8e-7);
  EXPECT_TRUE(std::isnan(math::gelu_tanh(kNan)));
  EXPECT_TRUE(std::isnan(math::gelu_erf(kNan)));
}

TEST(OpMath, SlopesOfActivations) {
  const auto gelu_erf = [](double x) { return x * exact_cdf(x); };
  const auto silu = [](double x) { return x * exact_sigmoid(x); };
  EXPECT_LT(worst_error([](float x) { return math::gelu_tanh_slope(x); },
                        [](double x) { return slope(exact_gelu_tanh, x); }, -8, 8)
                .absolute,
            6e-7);
  EXPECT_LT(
      worst_error([](float x) { return math::gelu_erf_slope(x); }, [&](double x) { return slope(gelu_erf, x); }, -8, 8)
          .absolute,
      6e-7);
  EXPECT_LT(worst_error([](float x) { return math::swiglu_grad(1.0f, x, 1.0f).gate; },
                        [&](double x) { return slope(silu, x); }, -20, 20)
                .absolute,
            6e-7);
  EXPECT_LT(worst_error([](float x) { return math::swiglu_grad(1.0f, x, 1.0f).up; }, silu, -20, 20).absolute, 4e-6);
}

}  // namespace
}  // namespace trireme
