// What passes between the part of attention that plans (attention.cc) and the part that computes (attention_tiles.h,
// compiled once per instruction set). Plain data only: this header is also read by code that is compiled for processors
// newer than the one the program may run on, so nothing here may leave a function behind.
//
// A *unit* is a tile of kAttentionRowTile query positions of one query head. A task is a run of units of the query
// heads that share a key head, in the order head by head, position by position.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trireme::cpu {

inline constexpr int64_t kAttentionRowTile = 64;

// One call of the op. Pointers to elements of the call's dtype are void; rows are those of the tensors.
struct AttentionCall {
  int64_t sequence = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0f;
  const int32_t* document_start = nullptr;  // [B·T] or null
  const void* qkv = nullptr;                // [B·T, (H + 2·KV)·D]
  void* out = nullptr;                      // [B·T, H·D], only read by backward
  float* lse = nullptr;                     // [B, H, T], only read by backward
  const void* dout = nullptr;               // [B·T, H·D]
  void* dqkv = nullptr;                     // [B·T, (H + 2·KV)·D]
};

struct AttentionTask {
  int64_t batch = 0;
  int64_t kv_head = 0;
  int64_t unit_begin = 0;
  int64_t unit_end = 0;
  int64_t key_end = 0;  // the units see keys [0, key_end) at most; T, or a multiple of kAttentionRowTile
  // Backward: where this task leaves its share of dK and dV, f32 [key_end rounded up to whole tiles, padded_dim], dK
  // without the scale. Null: the task is the only one of its key head and writes dqkv itself.
  float* dk = nullptr;
  float* dv = nullptr;
};

enum class AttentionIsa { avx2, avx512, avx512_bf16 };

// The kernels of one instruction set and dtype. Every one is a pure function of its arguments.
struct AttentionKernels {
  const char* name;
  AttentionIsa isa;
  int64_t pad;  // padded_dim is D rounded up to a multiple of it
  int64_t (*scratch_bytes)(const AttentionCall& call, bool backward);
  // `scratch` is aligned to 64 bytes, its contents do not matter.
  void (*forward)(const AttentionCall& call, const AttentionTask& task, std::byte* scratch);
  void (*backward)(const AttentionCall& call, const AttentionTask& task, std::byte* scratch);
  // Writes dK and dV of the keys [begin, end), whole tiles, of one key head: the sum of its tasks' shares, in order.
  void (*write_kv)(const AttentionCall& call, const AttentionTask* tasks, int64_t num_tasks, int64_t begin,
                   int64_t end);
};

extern const AttentionKernels kAttentionAvx2F32;
extern const AttentionKernels kAttentionAvx2Bf16;  // converts to f32
extern const AttentionKernels kAttentionAvx512F32;
extern const AttentionKernels kAttentionAvx512Bf16;     // converts to f32
extern const AttentionKernels kAttentionAvx512DotBf16;  // AVX512-BF16: products of bf16 pairs, sums in f32

}  // namespace trireme::cpu
