// The angles of rotary position embedding, with the scalings of Hugging Face's `rope_scaling`.
#pragma once

#include <vector>

#include "core/config/config.h"
#include "core/tensor/tensor.h"

namespace trireme {

// Angle per position of each of the head_dim/2 pairs: theta^(−2i/D), then
//   linear:  divided by `factor` (Chen et al. 2023);
//   llama3:  wavelengths beyond original/low_freq_factor divided by `factor`, those below original/high_freq_factor
//            kept, between them interpolated (Llama 3.1);
//   yarn:    of pairs that turn n times in the original context, those of n >= beta_fast kept, those of n <= beta_slow
//            divided by `factor`, between them blended, linearly in i (Peng et al. 2023, "YaRN", section 3.2).
std::vector<double> rotary_frequencies(const RopeConfig& rope, int64_t head_dim);

// How many times as large rotation makes queries and keys: 1, but with yarn (its section 3.3) `attention_factor`, or where
// that isn't given m(mscale) / m(mscale_all_dim), or where one of these isn't given either m(1); m(a) = 0.1·a·ln(factor) + 1.
double rotary_magnitude(const RopeConfig& rope);

// What DeepSeek multiplies attention's scores with besides 1/√D: with yarn m(mscale_all_dim)², else 1. It reaches the parts
// of a head without positions, too.
double latent_score_factor(const RopeConfig& rope);

// f32 [num_positions, D] on the stream's device: cosines, then sines, rotary_magnitude times; D = head_dim, or the rotated
// part of a head. Undefined where the model has no rotary.
Tensor make_rotary_table(Stream& stream, const ModelConfig& config, int64_t num_positions);

}  // namespace trireme
