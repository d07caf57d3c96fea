// Facts about a model that need no memory.
#pragma once

#include "core/config/config.h"
#include "parallel/name_map.h"

namespace trireme {

// How the parameters of `config` stand in its family's Hugging Face checkpoints.
NameMap hugging_face_names(const ModelConfig& config);

// Whether the router of this layer sees the logits of the one before (MoE++): those of all layers with experts but the
// first, and of none of multi-token prediction.
bool has_gate_residual(const ModelConfig& config, int64_t layer);

// Number of parameters without building the model. Buffers (e_score_correction_bias) are none.
int64_t count_parameters(const ModelConfig& config);

// Those that one token meets: all but the experts that it doesn't choose. With MoE++ a token's K choices fall on the E
// real experts in proportion, so that K·E/(E + those that compute nothing) of them count.
int64_t count_active_parameters(const ModelConfig& config);

// Model FLOPs of training on one token at sequence length T, forward and backward: 6 for each element of a matrix
// that the token meets, and attention, causal and so counted half. Recomputation is not counted. (Chowdhery et al. 2022,
// appendix B, halved for causality)
//   Matrices: the head's among them, the embedding's look-up not; of a layer with experts its router, the shared
//   experts with their gate and K experts (MoE++: as in count_active_parameters); of latent attention the low-rank
//   ones as they stand; of multi-token prediction its layers, what joins its inputs, and the head once more for each.
//   Attention: 3·L·H·(D + D_v)·T, D of a query and D_v of a value head: 6·L·H·D·T where they are alike; D = nope + rope
//   of latent attention.
double model_flops_per_token(const ModelConfig& config, int64_t sequence);
// What of them one layer has, those of multi-token prediction behind the last one; and what the loss head has, such modules
// with their layers included.
double layer_flops_per_token(const ModelConfig& config, int64_t layer, int64_t sequence);
double head_flops_per_token(const ModelConfig& config, int64_t sequence);

}  // namespace trireme
