// Rotary position embedding (Su et al. 2021) in rotate-half order, in place on the query and key heads of a packed qkv.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::ops {

// qkv [N, (H + 2·KV)·D], f32 or bf16: the first `num_rotated` = H + KV heads of each row are rotated by the angles of
// the row's position: (a, b) = (x[i], x[i + D/2]) -> (a·cos − b·sin, b·cos + a·sin). positions i32 [N]; table f32
// [max_positions, D]: D/2 cosines, then D/2 sines. A table may hold a multiple of them (YaRN's), and the heads become as
// many times as large. `inverse` is the backward pass: rotates back, by the same multiple. A position outside the table is
// a bug of ours.
void rotary(Stream& stream, Tensor& qkv, const Tensor& positions, const Tensor& table, int64_t num_rotated,
            int64_t head_dim, bool inverse);

}  // namespace trireme::ops
