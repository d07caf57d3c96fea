// Byte-pair encoding of one word: its bytes are symbols, and the pair of neighbours that stands first in the list of
// merges, the leftmost of equals, becomes one symbol, again and again (Sennrich et al., 2016, over bytes).
//
// Short words are searched from end to end for each merge; long ones keep their pairs in a heap, so that a word of n
// bytes takes O(n log n).
// Thread safety: const after construction.
// Errors: DataError for a vocabulary without one of the 256 bytes, with an id twice, or without a merge's symbols.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/data/bpe/tokenizer_json.h"

namespace trireme::bpe {

class Merger {
 public:
  explicit Merger(const TokenizerJson& json);

  // Memory that a thread lends to encode(), so that it is allocated once.
  struct Scratch {
    std::vector<int32_t> ids;
    std::vector<uint32_t> ranks;
  };
  // Appends the ids of a word, given as bytes.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  // Of a token of the vocabulary as the file writes it; nothing when there is none.
  const int32_t* find(const std::string& symbols) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  struct Merge {
    uint64_t pair = UINT64_MAX;
    uint32_t rank = kNoRank;
    int32_t id = 0;
  };
  static uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // The slot of the pair, or the empty one where it belongs.
  size_t slot_of(uint64_t pair) const;
  const Merge& merge_of(int32_t left, int32_t right) const { return merges_[slot_of(pair_of(left, right))]; }

  void encode_short(Scratch& scratch) const;
  void encode_long(Scratch& scratch) const;

  std::array<int32_t, 256> byte_ids_{};
  std::vector<Merge> merges_;  // open addressing; a power of two, at most half full
  uint64_t mask_ = 0;
  bool ignore_merges_;
  std::unordered_map<std::string, int32_t> ids_;  // by symbols
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> whole_words_;  // by bytes, for ignore_merges
};

}  // namespace trireme::bpe
