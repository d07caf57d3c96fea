// The ids of words that were encoded lately: a table of fixed size in which a word pushes out the one whose place it
// shares. Natural text repeats its words, so most are found.
//
// Thread safety: none; each thread has its own.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace trireme::bpe {

class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 46;
  static constexpr size_t kMaxIds = 20;

  // The place of a word, for the two below. REQUIRES: 1 to kMaxWordBytes bytes.
  size_t place(std::string_view word) const { return std::hash<std::string_view>()(word) & (kPlaces - 1); }
  // The ids of the word; empty when it isn't there.
  std::span<const int32_t> find(size_t place, std::string_view word) const {
    const Entry& entry = entries_[place];
    if (entry.bytes != word.size() || std::memcmp(entry.word.data(), word.data(), word.size()) != 0) return {};
    return {entry.ids.data(), entry.num_ids};
  }
  // Longer lists of ids are not kept.
  void put(size_t place, std::string_view word, std::span<const int32_t> ids) {
    if (ids.size() > kMaxIds) return;
    Entry& entry = entries_[place];
    entry.bytes = static_cast<uint8_t>(word.size());
    entry.num_ids = static_cast<uint8_t>(ids.size());
    std::copy(word.begin(), word.end(), entry.word.begin());
    std::copy(ids.begin(), ids.end(), entry.ids.begin());
  }

 private:
  static constexpr size_t kPlaces = size_t{1} << 15;  // 4 MiB
  struct alignas(64) Entry {
    uint8_t bytes = 0;
    uint8_t num_ids = 0;
    std::array<char, kMaxWordBytes> word{};
    std::array<int32_t, kMaxIds> ids{};
  };
  std::vector<Entry> entries_ = std::vector<Entry>(kPlaces);
};

}  // namespace trireme::bpe
