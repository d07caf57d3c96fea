// The angles of rotary position embedding, with the scalings of Hugging Face's `rope_scaling`.
#pragma once

#include <vector>

#include "core/config/config.h"
#include "core/tensor/tensor.h"

namespace trireme {

// Angle per position of each of the head_dim/2 pairs: theta^(−2i/D), then
//   linear:  divided by `factor` (Chen et al. 2023);
//   llama3:  wavelengths beyond original/low_freq_factor divided by `factor`, those below original/high_freq_factor
//            kept, between them interpolated (Llama 3.1).
std::vector<double> rotary_frequencies(const RopeConfig& rope, int64_t head_dim);

// f32 [num_positions, D] on the stream's device: cosines, then sines; D = head_dim, or the rotated part of a head. Undefined where the model has no rotary.
Tensor make_rotary_table(Stream& stream, const ModelConfig& config, int64_t num_positions);

}  // namespace trireme
