// Byte-level BPE against the ids that the Python package `tokenizers` gave (tests/oracle/make_tokenizers.py).
#include <zlib.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "core/data/bpe/merger.h"
#include "core/data/bpe/normalizer.h"
#include "core/data/bpe/word_cache.h"
#include "core/data/growing_text.h"
#include "core/data/tokenize.h"
#include "core/data/tokenizer.h"
#include "core/data/utf8.h"
#include "core/formats/token_source.h"
#include "tests/unit/bpe_mixture.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::bpe_golden;
using testing::bpe_mixture;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

const json& expected() {
  static const json file = json::parse(read_file(bpe_golden("expected.json")));
  return file;
}

uint32_t crc(const void* data, size_t bytes) {
  return static_cast<uint32_t>(crc32(0, static_cast<const Bytef*>(data), static_cast<uInt>(bytes)));
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::unique_ptr<Tokenizer> golden_tokenizer(const std::string& style) {
  return make_tokenizer(bpe_golden(style + "/tokenizer.json"));
}

// The golden tokenizer with one change to its file.
std::unique_ptr<Tokenizer> changed(const std::string& style, const std::function<void(json&)>& change) {
  const TempDir dir;
  json file = json::parse(read_file(bpe_golden(style + "/tokenizer.json")));
  change(file);
  write_file(dir / "tokenizer.json", file.dump());
  return make_tokenizer(dir.path());
}

// Every one of many small texts, around line ends, cut wherever the tokenizer says, with all kinds of text after it.
void expect_cuts_hold(const Tokenizer& tokenizer) {
  const std::vector<std::string> pieces = {"\n",     "\n\n",    " ",      "a",    "A's",    "1",
                                           ".",      "\r\n",    "\u3000", "船",   "\u0301", "\u1100\u1161",
                                           "<left>", "<right>", "\t",     "\xFF", "word"};
  const std::vector<std::string> tails = {"",     "a", "\n",     " ",  ".",  "\u0301", "\u1161",
                                          "\xFF", "1", "<left>", "'s", "\r", "word"};
  size_t cuts = 0;
  uint64_t state = 1;
  for (int i = 0; i < 4000; ++i) {
    std::string text;
    for (int n = 0; n < 7; ++n) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text += pieces[(state >> 33) % pieces.size()];
    }
    const size_t cut = tokenizer.last_cut(text);
    ASSERT_LE(cut, text.size());
    if (cut == 0) continue;
    ++cuts;
    for (const std::string& tail : tails) {
      const std::string longer = text + tail;
      std::vector<int32_t> parts = encode(tokenizer, longer.substr(0, cut));
      tokenizer.encode(longer.substr(cut), parts);
      ASSERT_EQ(parts, encode(tokenizer, longer)) << json(repair_utf8(longer)) << " cut at " << cut;
    }
  }
  EXPECT_GT(cuts, 300u);
}

class Bpe : public ::testing::TestWithParam<const char*> {
 protected:
  const json& golden() const {
    for (const json& style : expected().at("styles")) {
      if (style.at("style") == GetParam()) return style;
    }
    throw std::runtime_error("no such style");
  }
  std::unique_ptr<Tokenizer> tokenizer_ = golden_tokenizer(GetParam());
};

TEST_P(Bpe, StringsLikePython) {
  EXPECT_EQ(tokenizer_->vocab_size(), golden().at("vocab_size"));
  ASSERT_GT(golden().at("strings").size(), 20u);
  for (const json& string : golden().at("strings")) {
    const std::string text = from_hex(string.at("bytes"));
    EXPECT_EQ(encode(*tokenizer_, text), string.at("ids").get<std::vector<int32_t>>()) << string.at("bytes");
    const auto ids = string.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(repair_utf8(tokenizer_->decode(ids)), from_hex(string.at("decoded"))) << string.at("bytes");
  }
}

// Block by block, so that a failure says where.
TEST_P(Bpe, FiveMegabytesLikePython) {
  const std::string text = bpe_mixture(expected().at("mixture_bytes"), 1);
  ASSERT_EQ(crc(text.data(), text.size()), expected().at("mixture_crc32")) << "the generators differ";
  EXPECT_FALSE(is_utf8(text));
  const std::vector<int32_t> ids = encode(*tokenizer_, text);
  EXPECT_EQ(ids.size(), golden().at("num_ids"));
  const size_t block = expected().at("block_ids");
  const json& sums = golden().at("block_crc32");
  for (size_t i = 0; i < sums.size() && i * block < ids.size(); ++i) {
    const size_t count = std::min(block, ids.size() - i * block);
    ASSERT_EQ(crc(&ids[i * block], count * sizeof(int32_t)), sums[i]) << "ids from " << i * block << " on";
  }
  const std::string decoded = repair_utf8(tokenizer_->decode(ids));
  EXPECT_EQ(crc(decoded.data(), decoded.size()), golden().at("decoded_crc32"));
}

// Without the tokens that take white space and without NFC nothing is lost.
TEST_P(Bpe, DecodesWhatItEncoded) {
  const auto plain = changed(GetParam(), [](json& file) {
    file["added_tokens"] = json::array();
    file["normalizer"] = nullptr;
  });
  for (unsigned seed = 3; seed < 6; ++seed) {
    const std::string text = repair_utf8(bpe_mixture(100000, seed));
    EXPECT_TRUE(plain->decode(encode(*plain, text)) == text);
  }
}

TEST_P(Bpe, IdsDontDependOnCuts) {
  const std::string text = bpe_mixture(300000, 7);
  const std::vector<int32_t> whole = encode(*tokenizer_, text);
  ASSERT_TRUE(tokenizer_->knows_cuts());
  for (const size_t window : {200, 333, 2000, 65536}) {
    std::vector<int32_t> parts;
    size_t cuts = 0;
    for (size_t at = 0; at < text.size();) {
      size_t cut = 0;
      for (size_t length = window; cut == 0; length *= 2) {
        const std::string_view seen = std::string_view(text).substr(at, length);
        cut = at + seen.size() == text.size() ? seen.size() : tokenizer_->last_cut(seen);
      }
      tokenizer_->encode(std::string_view(text).substr(at, cut), parts);
      at += cut;
      ++cuts;
    }
    EXPECT_TRUE(parts == whole) << window;
    EXPECT_GT(cuts, text.size() / window / 4) << window;
  }
}

TEST_P(Bpe, CutsHoldWhateverFollows) { expect_cuts_hold(*tokenizer_); }

INSTANTIATE_TEST_SUITE_P(Styles, Bpe, ::testing::Values("gpt2", "llama3", "qwen"),
                         [](const auto& style) { return std::string(style.param); });

// Punctuation and the line ends after it are one word of Llama 3's: no cut between them, although no token may tell.
TEST(BpeTokenizer, NoCutInsideAWord) {
  expect_cuts_hold(*changed("llama3", [](json& file) {
    file["added_tokens"] = json::array();
    json& vocab = file["model"]["vocab"];
    const auto merge = [&](const std::string& left, const std::string& right) {
      if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
      file["model"]["merges"].push_back({left, right});
    };
    std::erase_if(file["model"]["merges"].get_ref<json::array_t&>(),
                  [](const json& pair) { return pair[0] == "." && pair[1] == "Ċ"; });
    merge("Ċ", "Ċ");
    merge(".", "ĊĊ");
  }));
}

// The ids are those of `tokenizers` 0.23: what a token took, another one that strips both sides doesn't get again.
TEST(BpeTokenizer, TokensOfWhiteSpaceThatOthersTook) {
  const auto ids_of = [](bool lstrip, bool rstrip, const std::string& text) {
    const auto tokenizer = changed("gpt2", [&](json& file) {
      json token = file["added_tokens"][0];
      token["content"] = "\n\n";
      token["normalized"] = false;
      token["lstrip"] = lstrip;
      token["rstrip"] = rstrip;
      token["id"] = file["model"]["vocab"].size();
      file["added_tokens"] = {token};
    });
    std::vector<int32_t> ids = encode(*tokenizer, text);
    for (int32_t& id : ids) id = id + 1 == tokenizer->vocab_size() ? -1 : id;
    return ids;
  };
  const int32_t a = encode(*golden_tokenizer("gpt2"), "a").at(0);
  const int32_t line = encode(*golden_tokenizer("gpt2"), "\n").at(0);
  EXPECT_EQ(ids_of(true, true, "a\n\n\n\n\n\na"), (std::vector<int32_t>{a, -1, a}));
  EXPECT_EQ(ids_of(true, true, "\n\n\n"), (std::vector<int32_t>{-1}));
  EXPECT_EQ(ids_of(false, true, "a\n\n\n\na"), (std::vector<int32_t>{a, -1, -1, a}));
  EXPECT_EQ(ids_of(true, false, "a\n\n\n\n\na"), (std::vector<int32_t>{a, -1, -1, line, a}));
}

TEST(BpeWordCache, OtherWordsInTheSamePlace) {
  bpe::WordCache cache;
  const std::vector<int32_t> ids = {4, 5};
  cache.put(7, "abc", ids);
  EXPECT_EQ(cache.find(7, "abc").size(), 2u);
  for (const char* other : {"ab", "abcd", "abd"}) EXPECT_TRUE(cache.find(7, other).empty()) << other;
  cache.put(7, "ab", std::vector<int32_t>{6});
  EXPECT_EQ(cache.find(7, "ab")[0], 6);
  EXPECT_TRUE(cache.find(7, "abc").empty());
  cache.put(7, "xyz", std::vector<int32_t>(bpe::WordCache::kMaxIds + 1));  // too many to keep
  EXPECT_TRUE(cache.find(7, "xyz").empty());
}

TEST(BpeTokenizer, ManyThreadsGiveTheSameIds) {
  const auto tokenizer = golden_tokenizer("qwen");
  const std::string text = bpe_mixture(50000, 9);
  const std::vector<int32_t> ids = encode(*tokenizer, text);
  std::vector<std::vector<int32_t>> of_thread(4);
  std::vector<std::thread> threads;
  for (auto& out : of_thread) threads.emplace_back([&] { out = encode(*tokenizer, text); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& out : of_thread) EXPECT_TRUE(out == ids);
}

// What `trireme generate` prints: no half characters, and in the end all of the text.
TEST(GrowingText, CharactersSpreadOverIds) {
  const auto show = [](const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
    GrowingText text(tokenizer);
    std::string shown;
    for (const int32_t id : ids) {
      const std::string piece = text.add(id);
      EXPECT_TRUE(is_utf8(piece));
      shown += piece;
    }
    return shown + text.finish();
  };
  for (const char* style : {"gpt2", "bytes"}) {
    const auto tokenizer = style == std::string("bytes") ? make_tokenizer(style) : golden_tokenizer(style);
    const std::string text = "a\uFFFD 👩‍👩‍👧‍👦 𝟗船\uFFFD\uFFFD\uFFFD\uFFFD\U00020BB7é" +
                             repair_utf8(bpe_mixture(2000, 13)) + "🚣";
    const std::vector<int32_t> ids = encode(*tokenizer, text);
    EXPECT_TRUE(show(*tokenizer, ids) == text) << style;
    // Ids of bytes that are no characters, some only at the end.
    for (const char* broken :
         {"a\xF0\x9F\x98z", "\x80\x80\x80\x80\xE2\x82", "\xFF\xFF\xF4\x8F", "\xC3", "\xF0\x80\x80\x80."}) {
      std::vector<int32_t> bytes;
      const auto one_byte = [&](char c) {  // the id that stands for this byte alone
        for (int32_t id = 0;; ++id) {
          if (tokenizer->decode(std::vector<int32_t>{id}) == std::string(1, c)) return id;
        }
      };
      for (const char* c = broken; *c != '\0'; ++c) bytes.push_back(one_byte(*c));
      EXPECT_EQ(show(*tokenizer, bytes), repair_utf8(broken)) << style;
    }
  }
}

// A word of 1 MB: the heap and the short words' search must agree where both can be used, and take no quadratic time.
TEST(BpeTokenizer, LongWords) {
  const auto tokenizer = golden_tokenizer("llama3");
  const std::string unit = "trireme";
  std::string word;
  while (word.size() < 1000000) word += unit;
  const std::vector<int32_t> ids = encode(*tokenizer, word);
  EXPECT_LT(ids.size(), word.size() / 2);
  EXPECT_TRUE(tokenizer->decode(ids) == word);
  EXPECT_EQ(encode(*tokenizer, std::string(1000000, ' ')).size(),
            encode(*tokenizer, std::string(500000, ' ')).size() * 2);
}

TEST(BpeMerger, LongWordsMergeLikeShortOnes) {
  const bpe::TokenizerJson file = bpe::read_tokenizer_json(bpe_golden("gpt2/tokenizer.json"));
  const bpe::Merger merger(file);
  bpe::Merger::Scratch scratch;
  // Merges one pair at a time by the definition.
  const auto by_definition = [&](const std::string& word) {
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    for (const auto& [left, right] : file.merges) {
      std::vector<std::string> merged;
      for (size_t i = 0; i < symbols.size(); ++i) {
        const bool here = i + 1 < symbols.size() && symbols[i] == left && symbols[i + 1] == right;
        merged.push_back(here ? left + right : symbols[i]);
        if (here) ++i;
      }
      symbols = merged;
    }
    std::vector<int32_t> ids;
    for (const std::string& symbol : symbols) ids.push_back(*merger.find(symbol));
    return ids;
  };
  uint64_t state = 5;
  for (const size_t bytes : {1, 2, 3, 10, 50, 255, 256, 257, 300, 1000}) {
    std::string word;
    for (size_t i = 0; i < bytes; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      word.push_back("etaonrsih"[(state >> 33) % 9]);
    }
    std::vector<int32_t> ids;
    merger.encode(word, scratch, ids);
    EXPECT_EQ(ids, by_definition(word)) << word;
  }
}

TEST(BpeNormalizer, Nfc) {
  const auto normalized = [](const std::string& text) {
    std::string buffer;
    return std::string(bpe::nfc(text, buffer));
  };
  EXPECT_EQ(normalized(""), "");
  EXPECT_EQ(normalized("cafe\u0301!"), "caf\u00e9!");
  EXPECT_EQ(normalized("\u0301cafe\u0301\u0301"), "\u0301caf\u00e9\u0301");
  EXPECT_EQ(normalized("q\u0307\u0323 q\u0323\u0307"), "q\u0323\u0307 q\u0323\u0307");
  EXPECT_EQ(normalized("\u1112\u1161\u11ab \uD558\u11ab"), "\uD55C \uD55C");
  EXPECT_EQ(normalized("\u212B\u2126\uF900"), "\u00C5\u03A9\u8C48");
  EXPECT_EQ(normalized("\u0958"), "\u0915\u093C");
  EXPECT_EQ(normalized("\u0061\u0315\u0300\u05AE\u0062"), "\u00E0\u05AE\u0315\u0062");
}

TEST(BpeTokenizer, EndOfDocument) {
  const auto without = [](const std::string& style, std::vector<std::string> names, const std::string& config) {
    const TempDir dir;
    json file = json::parse(read_file(bpe_golden(style + "/tokenizer.json")));
    // Added tokens of other names, so that ids stay.
    for (json& token : file["added_tokens"]) {
      for (const std::string& name : names) {
        if (token["content"] == name) token["content"] = "<other " + name + ">";
      }
    }
    write_file(dir / "tokenizer.json", file.dump());
    if (!config.empty()) write_file(dir / "tokenizer_config.json", config);
    return make_tokenizer(dir.path())->end_of_document();
  };
  const int64_t first = golden_tokenizer("gpt2")->vocab_size() - 3;
  EXPECT_EQ(golden_tokenizer("gpt2")->end_of_document(), first);
  EXPECT_EQ(without("gpt2", {}, R"({"eos_token": "<|begin|>"})"), first);
  EXPECT_EQ(without("gpt2", {"<|endoftext|>"}, ""), first + 1);
  const std::vector<std::string> both = {"<|endoftext|>", "<|end_of_text|>"};
  EXPECT_EQ(without("gpt2", both, ""), std::nullopt);
  EXPECT_EQ(without("gpt2", both, R"({"eos_token": null})"), std::nullopt);
  EXPECT_EQ(without("gpt2", both, R"({"eos_token": "<|begin|>"})"), first + 2);
  EXPECT_EQ(without("gpt2", both, R"({"eos_token": {"content": "<|begin|>"}})"), first + 2);
  EXPECT_CONTAINS(testing::message_of<DataError>([&] { without("gpt2", both, R"({"eos_token": "</s>"})"); }), "</s>");
  EXPECT_CONTAINS(testing::message_of<DataError>([&] { without("gpt2", both, "[]"); }), "tokenizer_config.json");
}

// `data tokenize` cuts texts beyond 1 MiB, and gives the ids of the whole; each document ends with the id for it.
TEST(Tokenize, BpeWithEndOfDocument) {
  const TempDir dir;
  const std::string text = bpe_mixture(5000000, 11);
  write_file(dir / "a.txt", text);
  write_file(dir / "b.jsonl",
             json({{"text", "A trireme\n"}}).dump() + "\n" + json({{"text", "船 <|begin|>"}}).dump() + "\n");
  TokenizeOptions options;
  options.inputs = {dir / "a.txt", dir / "b.jsonl"};
  options.out_prefix = dir / "out";
  options.append_eod = true;
  for (const std::string style : {"gpt2", "llama3", "qwen"}) {
    options.tokenizer = bpe_golden(style);
    ThreadPool pool(3);
    EXPECT_EQ(tokenize_files(options, pool).num_documents, 3);
    const auto tokenizer = golden_tokenizer(style);
    std::vector<int32_t> want;
    for (const std::string_view document :
         {std::string_view(text), std::string_view("A trireme\n"), std::string_view("船 <|begin|>")}) {
      tokenizer->encode(document, want);
      want.push_back(*tokenizer->end_of_document());
    }
    const auto source = open_token_source(dir / "out");
    std::vector<int32_t> ids(static_cast<size_t>(source->num_tokens()));
    source->read(0, ids);
    EXPECT_TRUE(ids == want) << style;
  }
}

}  // namespace
}  // namespace trireme
