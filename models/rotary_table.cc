#include "models/rotary_table.h"

#include <cmath>
#include <numbers>

#include "core/ops/elementwise.h"

namespace trireme {

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
    frequencies.push_back(f);
  }
  return frequencies;
}

Tensor make_rotary_table(Stream& stream, const ModelConfig& config, int64_t num_positions) {
  if (config.rope.type == RopeType::none) return {};
  const int64_t width = config.latent.kv_rank > 0 ? config.latent.rope_dim : config.head_dim;
  const std::vector<double> frequencies = rotary_frequencies(config.rope, width);
  const int64_t half = width / 2;
  std::vector<float> host(static_cast<size_t>(num_positions * width));
  for (int64_t p = 0; p < num_positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(i)];
      float* row = host.data() + p * width;
      row[i] = static_cast<float>(std::cos(angle));
      row[half + i] = static_cast<float>(std::sin(angle));
    }
  }
  Tensor table = Tensor::empty(stream, {num_positions, width}, DType::f32, MemoryTag::parameters);
  ops::copy_from_host(stream, host.data(), table);
  return table;
}

}  // namespace trireme
