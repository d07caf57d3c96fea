// The heads of multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1), between its products and
// ops::attention_*: queries and keys have a part without positions and a rotated one, which all key heads share; values are
// narrower or wider. Attention sees H query, key and value heads of one width D = max(nope + rope, v), filled with zeros.
//
//   q [N, H·(nope + rope)]: of each head the part without positions, then the rotated one
//   kv [N, H·(nope + v)]: of each head the key's part without positions, then the value
//   k_rope [N, rope]: the rotated part of every key
//
// Rotation is by pairs of neighbours (2i, 2i + 1), the angles of pair i as in rotary.h: positions i32 [N], table f32
// [max_positions, rope], rope/2 cosines, then rope/2 sines. f32 or bf16.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

struct LatentHeads {
  int64_t num_heads = 1;  // H
  int64_t nope = 0;
  int64_t rope = 0;  // even
  int64_t v = 0;

  int64_t qk() const { return nope + rope; }
  int64_t width() const { return qk() > v ? qk() : v; }  // D
};

// qkv [N, 3·H·D], as attention.h has it with as many key heads as query heads.
void pack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& q, const Tensor& kv,
                       const Tensor& k_rope, const Tensor& positions, const Tensor& table, Tensor& qkv);
// Backward of it: every element of dq, dkv and dk_rope is written; the latter is the sum over heads, in fp32.
void unpack_latent_heads(Stream& stream, const LatentHeads& heads, const Tensor& dqkv, const Tensor& positions,
                         const Tensor& table, Tensor& dq, Tensor& dkv, Tensor& dk_rope);

// Heads of another width: y [N, H·b] has of each head of x [N, H·a] the first min(a, b) elements, and zeros behind them.
void resize_heads(Stream& stream, const Tensor& x, int64_t num_heads, Tensor& y);

}  // namespace trireme::ops
