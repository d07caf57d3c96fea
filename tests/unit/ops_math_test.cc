// The per-element functions against <cmath> in fp64, over the whole range that they are used on.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

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

// Over all 65,536 draws the mean is the value itself, to the last digit: a bf16 has a multiple of 2⁻¹⁶ of the distance to
// its neighbour above every fp32.
TEST(OpMath, StochasticRoundingIsUnbiased) {
  const std::vector<float> values = {1.0f,     1.00001f,   1.0039062f, -1.0078124f, 3.14159274f, -2.71828175f, 1e-30f,
                                     1.5e-39f, -0x1p-149f, 0.0f,       -0.0f,       65535.99f,   0.1f,         1e38f};
  for (const float value : values) {
    double sum = 0;
    float smallest = kInfinity;
    float largest = -kInfinity;
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      bf16 rounded;
      math::store_stochastic(&rounded, value, bits);
      const float y = static_cast<float>(rounded);
      sum += static_cast<double>(y);
      smallest = std::min(smallest, y);
      largest = std::max(largest, y);
    }
    EXPECT_EQ(sum / 65536, static_cast<double>(value));
    EXPECT_LE(smallest, value);
    EXPECT_GE(largest, value);
    const float nearest = static_cast<float>(bf16(value));
    EXPECT_TRUE(nearest == smallest || nearest == largest) << "only neighbours";
    if (nearest == value) {
      EXPECT_EQ(smallest, largest) << "what bf16 holds stays";
    }
  }
}

TEST(OpMath, StochasticRoundingAtTheEdges) {
  for (const uint32_t bits : {0u, 1u, 0x8000u, 0xFFFFu, 0xFFFFFFFFu}) {
    const auto round = [&](float x) {
      return std::bit_cast<float>(static_cast<uint32_t>(math::round_stochastic(x, bits)) << 16);
    };
    EXPECT_EQ(round(kInfinity), kInfinity);
    EXPECT_EQ(round(-kInfinity), -kInfinity);
    EXPECT_TRUE(std::isnan(round(kNan)));
    EXPECT_TRUE(std::isnan(round(std::bit_cast<float>(0xFFFFFFFFu)))) << "must not become −0";
    EXPECT_TRUE(std::isnan(round(std::bit_cast<float>(0x7F800001u)))) << "must not become infinity";
    EXPECT_EQ(round(1.0f), 1.0f);
  }
}

}  // namespace
}  // namespace trireme
