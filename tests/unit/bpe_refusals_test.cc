// What a tokenizer.json may hold that isn't built, or that is broken, is named; nothing that changes ids is passed over.
#include <functional>
#include <nlohmann/json.hpp>

#include "core/data/bpe/pattern.h"
#include "core/data/bpe/regex.h"
#include "core/data/tokenizer.h"
#include "tests/unit/bpe_mixture.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::bpe_golden;
using testing::message_of;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

struct Case {
  const char* at;     // JSON pointer of what is set
  const char* value;  // JSON
  const char* named;  // what the message must say
};

template <class E>
std::string error_of(const std::string& style, const Case& c) {
  const TempDir dir;
  json file = json::parse(read_file(bpe_golden(style + "/tokenizer.json")));
  file[json::json_pointer(c.at)] = json::parse(c.value);
  write_file(dir / "tokenizer.json", file.dump());
  const std::string message = message_of<E>([&] { make_tokenizer(dir.path()); });
  EXPECT_CONTAINS(message, dir / "tokenizer.json");
  EXPECT_CONTAINS(message, c.named);
  return message;
}

TEST(BpeRefusals, WhatIsNotBuilt) {
  const Case cases[] = {
      {"/model/type", "\"WordPiece\"", "model.type"},
      {"/model/dropout", "0.1", "model.dropout"},
      {"/model/continuing_subword_prefix", "\"##\"", "model.continuing_subword_prefix"},
      {"/model/end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix"},
      {"/model/later_invention", "true", "model.later_invention"},
      {"/later_invention", "true", "tokenizer.json: later_invention"},
      {"/truncation", R"({"max_length": 5})", "tokenizer.json: truncation"},
      {"/padding", R"({"strategy": {"Fixed": 5}})", "tokenizer.json: padding"},
      {"/normalizer", R"({"type": "Lowercase"})", "normalizer.type"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]})",
       "normalizer.normalizers[1].type"},
      {"/pre_tokenizer", "null", "pre_tokenizer"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "pre_tokenizer.type"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "\"MergedWithNext\"", "pre_tokenizer.pretokenizers[0].behavior"},
      {"/pre_tokenizer/pretokenizers/0/pattern", R"({"String": " "})", "pre_tokenizer.pretokenizers[0].pattern"},
      {"/pre_tokenizer/pretokenizers/1", R"({"type": "Digits"})", "pre_tokenizer.pretokenizers[1].type"},
      {"/pre_tokenizer/pretokenizers/2", R"({"type": "ByteLevel"})", "pre_tokenizer.pretokenizers[2]"},
      {"/pre_tokenizer/pretokenizers/1/later_invention", "1", "pretokenizers[1].later_invention"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("\\w+")", "'\\w' at byte 0"},
      {"/decoder", "null", "tokenizer.json: decoder"},
      {"/decoder", R"({"type": "WordPiece"})", "decoder.type"},
      {"/added_tokens/0/later_invention", "1", "added_tokens[0].later_invention"},
  };
  for (const Case& c : cases) error_of<ConfigError>("qwen", c);
}

TEST(BpeRefusals, WhatIsBroken) {
  const Case cases[] = {
      {"/model/vocab/a", "-1", "model.vocab[\"a\"]"},
      {"/model/vocab/a", "\"x\"", "model.vocab[\"a\"]"},
      {"/model/vocab/a", "5", "two tokens with id 5"},
      {"/model/vocab/a", "900000", "large gaps"},
      {"/model/vocab", "[]", "model.vocab"},
      {"/model/vocab", "{}", "byte 0"},
      {"/model/merges", "{}", "model.merges"},
      {"/model/merges/3", R"(["a"])", "model.merges[3]"},
      {"/model/merges/3", R"("ab")", "model.merges[3]"},
      {"/model/merges/3", R"(["a", "nowhere"])", "\"nowhere\""},
      {"/model/merges/3", R"("a b c")", "model.merges[3]"},
      {"/model/ignore_merges", "1", "true or false"},
      {"/added_tokens/1/id", "7", "added_tokens[1]"},
      {"/added_tokens/1/content", "\"<|endoftext|>\"", "added_tokens[1]"},
      {"/added_tokens/1/content", "\"\"", "added_tokens[1].content"},
      {"/added_tokens", "{}", "tokenizer.json: added_tokens"},
      {"/pre_tokenizer/pretokenizers/0", "{}", "pre_tokenizer.pretokenizers[0]"},
  };
  for (const Case& c : cases) error_of<DataError>("llama3", c);
}

// The package takes one of the two by an order of its own.
TEST(BpeRefusals, AddedTokensThatAreOneAfterNfc) {
  const TempDir dir;
  json file = json::parse(read_file(bpe_golden("qwen/tokenizer.json")));
  json token = file["added_tokens"].back();
  token["normalized"] = true;
  for (const char* content : {"cr\u00e8me", "cre\u0300me"}) {
    token["id"] = file["added_tokens"].back()["id"].get<int>() + 1;
    token["content"] = content;
    file["added_tokens"].push_back(token);
  }
  write_file(dir / "tokenizer.json", file.dump());
  const std::string message = message_of<ConfigError>([&] { make_tokenizer(dir.path()); });
  EXPECT_CONTAINS(message, "differ after NFC");
  EXPECT_CONTAINS(message, "tokenizer.json: added_tokens");
  file["normalizer"] = nullptr;
  write_file(dir / "tokenizer.json", file.dump());
  make_tokenizer(dir.path());
}

TEST(BpeRefusals, FilesThatAreNone) {
  const TempDir dir;
  for (const char* text : {"[]", "{", "not json", "null"}) {
    write_file(dir / "tokenizer.json", text);
    EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir.path()); }), dir / "tokenizer.json");
  }
  write_file(dir / "tokenizer.json", "{}");
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir.path()); }), "a field \"model\"");
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir / "none.json"); }), dir / "none.json");
}

// Flags that change nothing, as older and newer files write them, are taken.
TEST(BpeRefusals, WhatChangesNothingIsTaken) {
  const TempDir dir;
  json file = json::parse(read_file(bpe_golden("gpt2/tokenizer.json")));
  std::vector<int32_t> want;
  make_tokenizer(bpe_golden("gpt2"))->encode("A ship's oars", want);
  file["model"].erase("type");
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["end_of_word_suffix"] = "";
  file["model"]["dropout"] = 0.0;
  file["model"]["unk_token"] = "<|endoftext|>";
  file["model"]["fuse_unk"] = true;
  file["model"]["byte_fallback"] = true;
  file["model"]["merges"].insert(file["model"]["merges"].begin(), "#version: 0.2");
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  file["post_processor"] = {{"type", "TemplateProcessing"}};
  write_file(dir / "tokenizer.json", file.dump());
  std::vector<int32_t> ids;
  make_tokenizer(dir.path())->encode("A ship's oars", ids);
  EXPECT_EQ(ids, want);
}

TEST(BpePattern, RefusesWhatTheTwoLibrariesReadDifferently) {
  for (const char* pattern :
       {".",      "^a",      "a$",      "\\w",     "\\b",          "\\h",    "\\Z",     "[[:alpha:]]",
        "[a&&b]", "(?<=a)b", "(?<!a)b", "a(?=bc)", "a(?=b+)",      "a{,3}",  "a{1,2}+", "a{1,2}?",
        "a**",    "(?i)a",   "(?m:a)",  "(*UTF)a", "a)",           "(a",     "[a",      "\\",
        "a\\1",   "\\p{^L}", "\\pL",    "\\x41",   "(?i:\\p{Lu})", "[^\\S]", "[]a]",    "?a"}) {
    EXPECT_CONTAINS(message_of<ConfigError>([&] { bpe::translate_pattern(pattern, "here"); }), "here") << pattern;
  }
  for (const char* pattern : {"a*", "a?|b", "\\p{NoSuchScript}+", "(?:)", "a|"}) {
    EXPECT_CONTAINS(message_of<ConfigError>([&] { bpe::translate_pattern(pattern, "here"); }), "here") << pattern;
  }
}

TEST(BpePattern, WhatAMatchMayHold) {
  const auto facts = [](const char* pattern) {
    const bpe::Pattern p = bpe::translate_pattern(pattern, "here");
    return std::string(p.newline_then_letter ? "L" : "-") + (p.visible_then_newline ? "N" : "-") +
           (p.matches_newline ? "m" : "-");
  };
  EXPECT_EQ(facts("\\p{L}+"), "---");
  EXPECT_EQ(facts("\\s+"), "--m");
  EXPECT_EQ(facts("\\s+(?!\\S)"), "---");
  EXPECT_EQ(facts("\\s+(?!\\S)|\\s+"), "--m");
  EXPECT_EQ(facts("\\s?\\p{L}+"), "L--");
  EXPECT_EQ(facts("[^\\p{N}]+"), "LNm");
  EXPECT_EQ(facts("(?:\\p{L}|\\n)+"), "LNm");
  EXPECT_EQ(facts("(?:\\p{L}|\\n)"), "--m");
  EXPECT_EQ(facts("\\p{L}\\r?\\n"), "-N-");
  EXPECT_EQ(facts("\\n\\p{N}?\\p{L}"), "L--");
  EXPECT_EQ(facts("\\n\\p{N}\\p{L}"), "---");
  EXPECT_EQ(facts("[\\r\\n]{2,}"), "---");
  EXPECT_EQ(facts("[\\r\\n]{1,3}"), "--m");
  EXPECT_EQ(facts("\\s?+\\n"), "---");
  EXPECT_EQ(facts("\\s*[\\r\\n]+"), "--m");
  EXPECT_EQ(facts("(?i:'s|\\n't)"), "---");
  EXPECT_EQ(facts("(?i:\\nt)|\\n"), "L-m");
}

TEST(BpePattern, WhiteSpaceIsUnicodes) {
  const bpe::Pattern p = bpe::translate_pattern("\\s", "here");
  const bpe::Regex regex(p.pcre, "here");
  const auto is_space = [&](std::string_view text) {
    bpe::Span ignored;
    return bpe::Matcher(regex).find(text, 0, ignored);
  };
  for (const char* space : {"\t", "\v", " ", "\u0085", "\u00A0", "\u2003", "\u3000"}) EXPECT_TRUE(is_space(space));
  for (const char* other : {"\u180E", "\u200B", "\uFEFF", "\x1C", "a"}) EXPECT_FALSE(is_space(other)) << other;
}

// What a match must remember for every character it has passed doesn't fit on the small stack.
TEST(BpePattern, LongMatches) {
  const bpe::Regex regex(bpe::translate_pattern("(?:(?:a|b)\\p{L})+c", "here").pcre, "here");
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "ax";
  bpe::Span match;
  const std::string whole = text + "c";
  EXPECT_TRUE(bpe::Matcher(regex).find(whole, 0, match));
  EXPECT_EQ(match.end, whole.size());
}

}  // namespace
}  // namespace trireme
