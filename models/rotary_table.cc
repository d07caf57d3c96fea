#include "models/rotary_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

// Of yarn: pairs up to `low` are kept, those from `high` on divided.
struct Ramp {
  double low;
  double high;

  double kept(int64_t pair) const {
    return 1.0 - std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  }
};

// As transformers computes it, with its bounds: the pair that turns n times in the original context is
// D·ln(original / (2π·n)) / (2·ln θ), which is seldom a whole one.
Ramp yarn_ramp(const RopeConfig& rope, int64_t head_dim) {
  const double width = static_cast<double>(head_dim);
  const double original = static_cast<double>(rope.original_max_position_embeddings);
  const auto pair_of = [&](double turns) {
    return width * std::log(original / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast);
  double high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, width - 1.0);
  if (low == high) high += 0.001;
  return {low, high};
}

// m(a) of rotary_magnitude.
double yarn_magnitude(const RopeConfig& rope, double mscale) { return 0.1 * mscale * std::log(rope.factor) + 1.0; }

}  // namespace

std::vector<double> rotary_frequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double f = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.type == RopeType::linear) f /= rope.factor;
    if (rope.type == RopeType::llama3) {
      const double original = static_cast<double>(rope.original_max_position_embeddings);
      const double turns = original * f / (2.0 * std::numbers::pi);  // original / wavelength
      if (turns < rope.low_freq_factor) {
        f /= rope.factor;
      } else if (turns <= rope.high_freq_factor) {
        const double smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        f = (1.0 - smooth) * f / rope.factor + smooth * f;
      }
    }
    if (rope.type == RopeType::yarn) {
      const double kept = yarn_ramp(rope, head_dim).kept(i);
      f = (1.0 - kept) * f / rope.factor + kept * f;
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

double rotary_magnitude(const RopeConfig& rope) {
  if (rope.type != RopeType::yarn) return 1.0;
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.mscale > 0 && rope.mscale_all_dim > 0) {
    return yarn_magnitude(rope, rope.mscale) / yarn_magnitude(rope, rope.mscale_all_dim);
  }
  return yarn_magnitude(rope, 1.0);
}

double latent_score_factor(const RopeConfig& rope) {
  if (rope.type != RopeType::yarn) return 1.0;
  const double magnitude = yarn_magnitude(rope, rope.mscale_all_dim);
  return magnitude * magnitude;
}

Tensor make_rotary_table(Stream& stream, const ModelConfig& config, int64_t num_positions) {
  if (config.rope.type == RopeType::none) return {};
  const int64_t width = config.latent.kv_rank > 0 ? config.latent.rope_dim : config.head_dim;
  const std::vector<double> frequencies = rotary_frequencies(config.rope, width);
  const double magnitude = rotary_magnitude(config.rope);
  const int64_t half = width / 2;
  std::vector<float> host(static_cast<size_t>(num_positions * width));
  for (int64_t p = 0; p < num_positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(i)];
      float* row = host.data() + p * width;
      row[i] = static_cast<float>(magnitude * std::cos(angle));
      row[half + i] = static_cast<float>(magnitude * std::sin(angle));
    }
  }
  Tensor table = Tensor::empty(stream, {num_positions, width}, DType::f32, MemoryTag::parameters);
  ops::copy_from_host(stream, host.data(), table);
  return table;
}

}  // namespace trireme
