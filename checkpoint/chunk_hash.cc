#include "checkpoint/chunk_hash.h"

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace trireme {

namespace {

// Bytes that are hashed and then copied while they lie in the innermost caches.
constexpr int64_t kBlock = int64_t{64} << 10;
constexpr size_t kLine = 64;

// memcpy that doesn't bring what it writes into the caches.
void copy_past_caches(std::byte* to, const std::byte* from, size_t bytes) {
  const size_t head = std::min(bytes, (kLine - reinterpret_cast<uintptr_t>(to) % kLine) % kLine);
  std::memcpy(to, from, head);
  size_t at = head;
  for (; at + kLine <= bytes; at += kLine) {
    const auto load = [&](size_t offset) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + offset));
    };
    const __m256i first = load(0), second = load(kLine / 2);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at), first);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at + kLine / 2), second);
  }
  std::memcpy(to + at, from + at, bytes - at);
}

}  // namespace

struct ChunkHash::State {
  XXH3_state_t xxh3;
};

ChunkHash::ChunkHash() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh3); }
ChunkHash::~ChunkHash() = default;

void ChunkHash::copy(const void* from, void* to, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kBlock) {
    const auto* block = static_cast<const std::byte*>(from) + at;
    const auto size = static_cast<size_t>(std::min(kBlock, bytes - at));
    XXH3_64bits_update(&state_->xxh3, block, size);
    copy_past_caches(static_cast<std::byte*>(to) + at, block, size);
  }
  _mm_sfence();
}

uint64_t ChunkHash::take() {
  const uint64_t hash = XXH3_64bits_digest(&state_->xxh3);
  XXH3_64bits_reset(&state_->xxh3);
  return hash;
}

}  // namespace trireme
