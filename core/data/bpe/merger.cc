#include "core/data/bpe/merger.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <unordered_set>

#include "core/data/bpe/byte_alphabet.h"
#include "core/error.h"

namespace trireme::bpe {

namespace {

constexpr size_t kShortWord = 256;

uint64_t mix(uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15u;
  return pair ^ pair >> 32;
}

[[noreturn]] void broken(const TokenizerJson& json, const std::string& expected, const std::string& found,
                         const std::string& field) {
  throw DataError(
      {.what = "the tokenizer can't be used", .expected = expected, .found = found, .where = json.path + ": " + field});
}

}  // namespace

Merger::Merger(const TokenizerJson& json) : ignore_merges_(json.ignore_merges) {
  std::unordered_set<int32_t> seen;
  ids_.reserve(json.vocab.size());
  for (const auto& [symbols, id] : json.vocab) {
    ids_.emplace(symbols, id);
    if (!seen.insert(id).second)
      broken(json, "each id once", "two tokens with id " + std::to_string(id), "model.vocab");
    if (!ignore_merges_) continue;
    if (const auto bytes = bytes_of_symbols(symbols)) whole_words_.emplace(*bytes, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string symbol = symbol_of_byte(static_cast<unsigned char>(byte));
    const int32_t* id = find(symbol);
    if (id == nullptr) {
      broken(json, "all 256 bytes", "no \"" + symbol + "\", which is byte " + std::to_string(byte), "model.vocab");
    }
    byte_ids_[static_cast<size_t>(byte)] = *id;
  }
  merges_.resize(std::bit_ceil(std::max<size_t>(2, json.merges.size() * 2)));
  mask_ = merges_.size() - 1;
  for (size_t rank = 0; rank < json.merges.size(); ++rank) {
    const auto& [left, right] = json.merges[rank];
    const std::string field = "model.merges[" + std::to_string(rank) + "]";
    for (const std::string& symbols : {left, right, left + right}) {
      if (find(symbols) == nullptr) broken(json, "symbols of the vocabulary", "\"" + symbols + "\"", field);
    }
    const uint64_t pair = pair_of(*find(left), *find(right));
    // A pair that is listed twice has its last place.
    merges_[slot_of(pair)] = {pair, static_cast<uint32_t>(rank), *find(left + right)};
  }
}

const int32_t* Merger::find(const std::string& symbols) const {
  const auto found = ids_.find(symbols);
  return found == ids_.end() ? nullptr : &found->second;
}

size_t Merger::slot_of(uint64_t pair) const {
  uint64_t i = mix(pair) & mask_;
  while (merges_[i].pair != pair && merges_[i].rank != kNoRank) i = (i + 1) & mask_;
  return i;
}

void Merger::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    const auto found = whole_words_.find(word);
    if (found != whole_words_.end()) {
      out.push_back(found->second);
      return;
    }
  }
  scratch.ids.clear();
  for (const char c : word) scratch.ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  if (word.size() <= kShortWord) {
    encode_short(scratch);
  } else {
    encode_long(scratch);
  }
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
}

void Merger::encode_short(Scratch& scratch) const {
  std::vector<int32_t>& ids = scratch.ids;
  std::vector<uint32_t>& ranks = scratch.ranks;  // of the pair that begins at each place but the last
  size_t count = ids.size();
  if (count < 2) return;
  ranks.resize(count - 1);
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = merge_of(ids[i], ids[i + 1]).rank;
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    ids[best] = merge_of(ids[best], ids[best + 1]).id;
    std::copy(ids.begin() + static_cast<ptrdiff_t>(best) + 2, ids.begin() + static_cast<ptrdiff_t>(count),
              ids.begin() + static_cast<ptrdiff_t>(best) + 1);
    std::copy(ranks.begin() + static_cast<ptrdiff_t>(best) + 1, ranks.begin() + static_cast<ptrdiff_t>(count) - 1,
              ranks.begin() + static_cast<ptrdiff_t>(best));
    --count;
    if (best + 1 < count) ranks[best] = merge_of(ids[best], ids[best + 1]).rank;
    if (best > 0) ranks[best - 1] = merge_of(ids[best - 1], ids[best]).rank;
  }
  ids.resize(count);
}

void Merger::encode_long(Scratch& scratch) const {
  std::vector<int32_t>& ids = scratch.ids;
  constexpr int32_t kGone = -1;
  const size_t count = ids.size();
  std::vector<size_t> previous(count);  // of the symbol that begins at a place: the neighbours' places
  std::vector<size_t> next(count);
  for (size_t i = 0; i < count; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1;
  }
  struct Candidate {
    uint32_t rank;
    size_t place;
    uint64_t pair;  // as it was; the entry is stale when another stands there now
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto offer = [&](size_t place) {
    if (next[place] >= count) return;
    const uint64_t pair = pair_of(ids[place], ids[next[place]]);
    const uint32_t rank = merges_[slot_of(pair)].rank;
    if (rank != kNoRank) candidates.push({rank, place, pair});
  };
  for (size_t i = 0; i + 1 < count; ++i) offer(i);
  while (!candidates.empty()) {
    const Candidate top = candidates.top();
    candidates.pop();
    const size_t right = next[top.place];
    if (ids[top.place] == kGone || right >= count || pair_of(ids[top.place], ids[right]) != top.pair) continue;
    ids[top.place] = merges_[slot_of(top.pair)].id;
    ids[right] = kGone;
    next[top.place] = next[right];
    if (next[right] < count) previous[next[right]] = top.place;
    offer(top.place);
    if (top.place > 0) offer(previous[top.place]);
  }
  std::erase(ids, kGone);
}

}  // namespace trireme::bpe
