#include "core/data/bpe/bpe_tokenizer.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "core/data/bpe/added_tokens.h"
#include "core/data/bpe/byte_alphabet.h"
#include "core/data/bpe/cuts.h"
#include "core/data/bpe/end_of_document.h"
#include "core/data/bpe/merger.h"
#include "core/data/bpe/normalizer.h"
#include "core/data/bpe/pre_tokenizer.h"
#include "core/data/bpe/word_cache.h"
#include "core/data/utf8.h"
#include "core/error.h"

namespace trireme::bpe {

namespace {

// The added tokens of one pass, special ones first.
std::vector<AddedToken> pass(const TokenizerJson& json, bool normalized) {
  std::vector<AddedToken> tokens;
  for (const bool special : {true, false}) {
    for (const AddedToken& token : json.added_tokens) {
      if (token.special == special && token.normalized == normalized) tokens.push_back(token);
    }
  }
  if (normalized && json.nfc) {
    std::string buffer;
    std::map<std::string, std::string> seen;  // as it is looked for, as it stands in the file
    for (AddedToken& token : tokens) {
      const std::string found(nfc(token.content, buffer));
      const auto [other, is_new] = seen.emplace(found, token.content);
      if (!is_new) {
        throw ConfigError({.what = "the tokenizer asks for what isn't built",
                           .expected = "added tokens that differ after NFC",
                           .found = "\"" + other->second + "\" and \"" + token.content + "\"",
                           .where = json.path + ": added_tokens"});
      }
      token.content = found;
    }
  }
  return tokens;
}

// Added tokens get the ids that the package would give them, which is what the file must say.
void check_added_ids(const TokenizerJson& json, const Merger& merger) {
  std::map<std::string, int32_t> seen;
  const auto vocab_size = static_cast<int32_t>(json.vocab.size());
  int32_t next = vocab_size;
  for (size_t i = 0; i < json.added_tokens.size(); ++i) {
    const AddedToken& token = json.added_tokens[i];
    const std::string where = json.path + ": added_tokens[" + std::to_string(i) + "]";
    const int32_t* known = merger.find(token.content);
    const int32_t expected = known != nullptr ? *known : next;
    if (token.id != expected) {
      throw DataError({.what = "an added token's id is not the next one",
                       .expected = std::to_string(expected) + " for \"" + token.content + "\"",
                       .found = std::to_string(token.id),
                       .where = where});
    }
    if (!seen.emplace(token.content, token.id).second) {
      throw DataError({.what = "an added token is listed twice", .found = "\"" + token.content + "\"", .where = where});
    }
    next = std::max(next, token.id + 1);
  }
}

// What a token stands for: bytes, or its text when that isn't written in the byte alphabet.
std::string bytes_of_token(const std::string& content) { return bytes_of_symbols(content).value_or(content); }

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(const TokenizerJson& json)
      : path_(json.path),
        nfc_(json.nfc),
        merger_(json),
        raw_tokens_(pass(json, /*normalized=*/false)),
        normalized_tokens_(pass(json, /*normalized=*/true)),
        pre_tokenizer_(json),
        cuts_(pre_tokenizer_.first_pattern(), json) {
    check_added_ids(json, merger_);
    fill_token_bytes(json);
    end_of_document_ = find_end_of_document(json, [&](const std::string& name) -> std::optional<int32_t> {
      for (const AddedToken& token : json.added_tokens) {
        if (token.content == name) return token.id;
      }
      const int32_t* id = merger_.find(name);
      return id != nullptr ? std::optional<int32_t>(*id) : std::nullopt;
    });
  }

  std::string name() const override { return path_; }
  int64_t vocab_size() const override { return static_cast<int64_t>(token_bytes_.size()); }
  std::optional<int32_t> end_of_document() const override { return end_of_document_; }

  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    std::string repaired;
    if (!is_utf8(text)) text = repaired = repair_utf8(text);
    const Borrowed scratch(*this);
    const auto add = [&](int32_t id) { out.push_back(id); };
    raw_tokens_.split(
        text,
        [&](std::string_view part) {
          if (nfc_) part = nfc(part, scratch->normalized);
          normalized_tokens_.split(
              part, [&](std::string_view words) { encode_words(words, *scratch, out); }, add);
        },
        add);
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      const bool known = id >= 0 && id < vocab_size() && is_token_[static_cast<size_t>(id)];
      text += known ? token_bytes_[static_cast<size_t>(id)] : "\xEF\xBF\xBD";
    }
    return text;
  }

  bool knows_cuts() const override { return true; }
  size_t last_cut(std::string_view text) const override {
    return cuts_.last(text, [&](std::string_view part, std::vector<int32_t>& ids) { encode(part, ids); });
  }

 private:
  // What a thread needs while it encodes; kept for the next one that asks.
  struct Scratch {
    explicit Scratch(const PreTokenizer& pre_tokenizer) : matchers(pre_tokenizer.matchers()) {}
    std::vector<Matcher> matchers;
    Merger::Scratch merger;
    WordCache cache;
    std::string normalized;
  };
  class Borrowed {
   public:
    explicit Borrowed(const BpeTokenizer& owner) : owner_(owner) {
      {
        const std::lock_guard lock(owner_.mutex_);
        if (!owner_.idle_.empty()) {
          scratch_ = std::move(owner_.idle_.back());
          owner_.idle_.pop_back();
        }
      }
      if (!scratch_) scratch_ = std::make_unique<Scratch>(owner_.pre_tokenizer_);
    }
    ~Borrowed() {
      const std::lock_guard lock(owner_.mutex_);
      owner_.idle_.push_back(std::move(scratch_));
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    Scratch& operator*() const { return *scratch_; }
    Scratch* operator->() const { return scratch_.get(); }

   private:
    const BpeTokenizer& owner_;
    std::unique_ptr<Scratch> scratch_;
  };

  void encode_words(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
    pre_tokenizer_.split(text, scratch.matchers, [&](std::string_view word) {
      if (word.size() > WordCache::kMaxWordBytes) return merger_.encode(word, scratch.merger, out);
      const size_t place = scratch.cache.place(word);
      const std::span<const int32_t> known = scratch.cache.find(place, word);
      if (!known.empty()) {
        out.insert(out.end(), known.begin(), known.end());
        return;
      }
      const size_t begin = out.size();
      merger_.encode(word, scratch.merger, out);
      scratch.cache.put(place, word, std::span(out).subspan(begin));
    });
  }

  void fill_token_bytes(const TokenizerJson& json) {
    const size_t count = json.vocab.size() + json.added_tokens.size();
    const auto put = [&](int32_t id, const std::string& content) {
      const auto i = static_cast<size_t>(id);
      if (i > 4 * count + 1024) {
        throw DataError({.what = "the ids of the tokenizer have large gaps",
                         .expected = "ids near their number, " + std::to_string(count),
                         .found = "id " + std::to_string(id),
                         .where = path_ + ": model.vocab"});
      }
      if (i >= token_bytes_.size()) {
        token_bytes_.resize(i + 1);
        is_token_.resize(i + 1);
      }
      token_bytes_[i] = bytes_of_token(content);
      is_token_[i] = true;
    };
    for (const auto& [symbols, id] : json.vocab) put(id, symbols);
    for (const AddedToken& token : json.added_tokens) put(token.id, token.content);
  }

  std::string path_;
  bool nfc_;
  Merger merger_;
  AddedTokens raw_tokens_;
  AddedTokens normalized_tokens_;
  PreTokenizer pre_tokenizer_;
  Cuts cuts_;
  std::vector<std::string> token_bytes_;  // by id
  std::vector<bool> is_token_;            // false in gaps
  std::optional<int32_t> end_of_document_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const std::string& path) {
  return std::make_unique<BpeTokenizer>(read_tokenizer_json(path));
}

}  // namespace trireme::bpe
