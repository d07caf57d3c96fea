// Tokenizers and `tokenize_files`.
#include <sys/stat.h>
#include <zlib.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/data/text_reader.h"
#include "core/data/tokenize.h"
#include "core/data/tokenizer.h"
#include "core/data/utf8.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::message_of;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

// A SentencePiece model of eight pieces in protobuf's wire format (ModelProto: pieces = 1 {piece = 1,
// score = 2, type = 3}, trainer_spec = 2, normalizer_spec = 3 {name = 1}).
std::string tiny_sentencepiece() {
  const auto field = [](int number, const std::string& bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
  };
  const auto piece = [&](const std::string& text, float score, char type) {
    return field(1, field(1, text) + std::string{2 << 3 | 5} + testing::Bytes().put(score).data +
                        (type != 1 ? std::string{3 << 3, type} : ""));
  };
  return piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("▁", -4, 1) + piece("a", -3, 1) +
         piece("b", -3, 1) + piece("▁ab", -2, 1) + piece("ü", -5, 1) + field(2, "") + field(3, field(1, "identity"));
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// The documents of P.bin/P.idx, as text of the byte tokenizer.
std::vector<std::string> documents(const std::string& prefix) {
  const auto source = open_token_source(prefix);
  std::vector<std::string> out;
  for (int64_t d = 0; d < source->num_documents(); ++d) {
    std::vector<int32_t> ids(static_cast<size_t>(source->document_begin(d + 1) - source->document_begin(d)));
    source->read(source->document_begin(d), ids, 256);
    out.emplace_back(ids.begin(), ids.end());
  }
  return out;
}

struct Fixture {
  TempDir dir;
  ThreadPool pool{3};

  TokenizeOptions options(const std::vector<std::string>& inputs) const {
    TokenizeOptions o;
    o.inputs = inputs;
    o.out_prefix = dir / "out";
    return o;
  }
  TokenizeReport run(const std::vector<std::string>& inputs) { return tokenize_files(options(inputs), pool); }
};

TEST(Tokenizer, Bytes) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_FALSE(tokenizer->end_of_document());
  std::vector<int32_t> ids = {7};
  tokenizer->encode("a\xFF\n", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{7, 97, 255, 10}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{97, 255, 300, -1}), "a\xFF\xEF\xBF\xBD\xEF\xBF\xBD");
}

// Known answers from the sentencepiece package of Python, version 0.2, with the same model.
TEST(Tokenizer, SentencePiece) {
  const TempDir dir;
  write_file(dir / "tokenizer.model", tiny_sentencepiece());
  for (const std::string& spec : {dir / "tokenizer.model", dir.path()}) {
    const auto tokenizer = make_tokenizer(spec);
    EXPECT_EQ(tokenizer->vocab_size(), 8);
    EXPECT_EQ(tokenizer->end_of_document(), 2);
    const auto encode = [&](const std::string& text) {
      std::vector<int32_t> ids;
      tokenizer->encode(text, ids);
      return ids;
    };
    EXPECT_EQ(encode("ab ab"), (std::vector<int32_t>{6, 6}));
    EXPECT_EQ(encode("ba"), (std::vector<int32_t>{3, 5, 4}));
    EXPECT_EQ(encode("aüb"), (std::vector<int32_t>{3, 4, 7, 5}));
    EXPECT_EQ(encode("ab\xFF a"), (std::vector<int32_t>{6, 0, 3, 4}));  // broken UTF-8 is the unknown piece
    EXPECT_EQ(encode(""), (std::vector<int32_t>{}));
    EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{6, 6}), "ab ab");
    EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{6, 99}), "ab\xEF\xBF\xBD");
  }
}

TEST(Tokenizer, NamesWhatIsWrong) {
  const TempDir dir;
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir / "none.model"); }), "found '" + (dir / "none.model"));
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir.path()); }), "holds no tokenizer");
  write_file(dir / "bad.model", "this is no protobuf");
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir / "bad.model"); }), dir / "bad.model");
  write_file(dir / "empty.model", "");
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir / "empty.model"); }), "the file is empty");
  EXPECT_CONTAINS(message_of<DataError>([&] { make_tokenizer(dir / "tokenizer.json"); }), "no such tokenizer");
}

TEST(Utf8, ChecksAndRepairs) {
  EXPECT_TRUE(is_utf8("aü€😀"));
  // Overlong, surrogate, above U+10FFFF, cut short, lone continuation.
  for (const char* text :
       {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80", "a\xFF"}) {
    EXPECT_FALSE(is_utf8(text));
    EXPECT_TRUE(is_utf8(repair_utf8(text)));
  }
  EXPECT_EQ(repair_utf8("a\xFFü"), "a\xEF\xBF\xBDü");
  // One for each beginning of a character that goes on wrong, as Python's errors="replace".
  const std::string one = "\xEF\xBF\xBD";
  EXPECT_EQ(repair_utf8("\xE2\x82z"), one + "z");
  EXPECT_EQ(repair_utf8("\xF0\x9F\x98"), one);
  EXPECT_EQ(repair_utf8("\xF0\x80\x80"), one + one + one);
  EXPECT_EQ(repair_utf8("\xED\xA0\x80"), one + one + one);
  EXPECT_EQ(repair_utf8("\xF4\x8F\xBF\xC3"), one + one);
}

TEST(Tokenize, TextAndJsonLinesPlainAndGzipped) {
  Fixture t;
  const std::string jsonl =
      "{\"text\": \"one\", \"id\": 1}\n\n  "
      "\r\n{\"id\":2,\"text\":\"zwei\\nü\"}\r\n{\"text\":\"\"}\n{\"text\":\"last\"}";
  write_file(t.dir / "a.txt", "plain\ntext\n");
  write_file(t.dir / "b.jsonl", jsonl);
  write_file(t.dir / "c.txt.gz", gzip("zipped"));
  write_file(t.dir / "d.jsonl.gz", gzip(jsonl));
  write_file(t.dir / "e", "");
  const TokenizeReport report =
      t.run({t.dir / "a.txt", t.dir / "b.jsonl", t.dir / "c.txt.gz", t.dir / "d.jsonl.gz", t.dir / "e"});
  EXPECT_EQ(documents(t.dir / "out"),
            (std::vector<std::string>{"plain\ntext\n", "one", "zwei\nü", "last", "zipped", "one", "zwei\nü", "last"}));
  EXPECT_EQ(report.num_documents, 8);
  EXPECT_EQ(report.num_empty_documents, 3);
  EXPECT_EQ(report.num_tokens, 11 + 6 + 2 * (3 + 7 + 4));
  EXPECT_EQ(report.text_bytes, report.num_tokens);
  EXPECT_EQ(report.dtype, TokenDType::u16);
  EXPECT_EQ(open_token_source(t.dir / "out")->dtype(), TokenDType::u16);
}

// Larger than several pieces and batches, with long lines and one without any line end.
TEST(Tokenize, LongTextsAreOneDocumentWhateverThePool) {
  Fixture t;
  std::string text;
  for (int i = 0; text.size() < (size_t{11} << 20); ++i)
    text += "line " + std::to_string(i) + (i % 7 == 0 ? " ü\n" : " ");
  write_file(t.dir / "long.txt", text);
  const std::string unbroken(size_t{5} << 20, 'x');
  write_file(t.dir / "unbroken.txt.gz", gzip(unbroken));
  write_file(t.dir / "exact.txt", std::string((size_t{1} << 20) + 5, 'y') + "\n");
  const std::vector<std::string> inputs = {t.dir / "long.txt", t.dir / "unbroken.txt.gz", t.dir / "exact.txt"};
  t.run(inputs);
  const std::string bin = read_file(t.dir / "out.bin");
  EXPECT_TRUE(documents(t.dir / "out") ==
              (std::vector<std::string>{text, unbroken, std::string((size_t{1} << 20) + 5, 'y') + "\n"}));
  ThreadPool one(1);
  tokenize_files(t.options(inputs), one);
  EXPECT_TRUE(read_file(t.dir / "out.bin") == bin);
}

TEST(TextReader, CutsPiecesAfterALineEnd) {
  const TempDir dir;
  std::string text;
  while (text.size() < (size_t{3} << 20)) text += "a line of text\n";
  write_file(dir / "a.txt", text);
  TextReader reader({dir / "a.txt"});
  TextPiece piece;
  int pieces = 0;
  for (; reader.next(piece); ++pieces) EXPECT_EQ(piece.text.back(), '\n');
  EXPECT_EQ(pieces, 3);
}

TEST(TextReader, CutsPiecesBetweenCharacters) {
  const TempDir dir;
  std::string text(1, 'a');  // an odd offset, so that a cut at 2 MiB would split a character
  while (text.size() < (size_t{5} << 20)) text += "ü";
  write_file(dir / "a.txt", text);
  TextReader reader({dir / "a.txt"});
  TextPiece piece;
  std::string joined;
  int pieces = 0;
  while (reader.next(piece)) {
    EXPECT_TRUE(is_utf8(piece.text));
    joined += piece.text;
    ++pieces;
    EXPECT_EQ(piece.ends_document, joined.size() == text.size());
  }
  EXPECT_EQ(pieces, 3);
  EXPECT_TRUE(joined == text);
}

TEST(Tokenize, ManyShortLinesKeepTheirOrder) {
  Fixture t;
  std::string jsonl;
  constexpr int kLines = 40000;  // more than two batches
  for (int i = 0; i < kLines; ++i) jsonl += "{\"text\":\"" + std::to_string(i) + "\"}\n";
  write_file(t.dir / "a.jsonl", jsonl);
  int64_t last = 0;
  int calls = 0;
  TokenizeOptions options = t.options({t.dir / "a.jsonl"});
  options.progress = [&](const TokenizeProgress& progress) {
    EXPECT_GE(progress.input_bytes, last);
    EXPECT_EQ(progress.total_input_bytes, static_cast<int64_t>(jsonl.size()));
    last = progress.input_bytes;
    ++calls;
  };
  EXPECT_EQ(tokenize_files(options, t.pool).num_documents, kLines);
  EXPECT_GE(calls, 3);
  EXPECT_EQ(last, static_cast<int64_t>(jsonl.size()));
  const std::vector<std::string> found = documents(t.dir / "out");
  ASSERT_EQ(found.size(), size_t{kLines});
  for (int i = 0; i < kLines; ++i) ASSERT_EQ(found[static_cast<size_t>(i)], std::to_string(i));
}

TEST(Tokenize, SentencePieceWithEndOfDocument) {
  Fixture t;
  write_file(t.dir / "tok.model", tiny_sentencepiece());
  write_file(t.dir / "a.jsonl", "{\"body\":\"ab ab\"}\n{\"body\":\"\"}\n{\"body\":\"ba\"}\n");
  TokenizeOptions options = t.options({t.dir / "a.jsonl"});
  options.tokenizer = t.dir / "tok.model";
  options.jsonl_field = "body";
  options.append_eod = true;
  const TokenizeReport report = tokenize_files(options, t.pool);
  const auto source = open_token_source(t.dir / "out");
  std::vector<int32_t> ids(static_cast<size_t>(source->num_tokens()));
  source->read(0, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{6, 6, 2, 3, 5, 4, 2}));
  EXPECT_EQ(source->document_begin(1), 3);
  EXPECT_EQ(report.num_documents, 2);
  EXPECT_EQ(report.vocab_size, 8);
  // Counts by hand: ids 6, 2 twice, 3, 5, 4 once of 7; bytes a 3, b 3, space 1 of 7.
  const auto term = [](double n) { return -n / 7 * std::log(n / 7); };
  EXPECT_NEAR(report.unigram_entropy_nats, 2 * term(2) + 3 * term(1), 1e-12);
  EXPECT_NEAR(report.byte_unigram_entropy_nats, 2 * term(3) + term(1), 1e-12);
}

TEST(Tokenize, EntropyOfAUniformText) {
  Fixture t;
  write_file(t.dir / "a.txt", "abcdabcd");
  const TokenizeReport report = t.run({t.dir / "a.txt"});
  EXPECT_NEAR(report.unigram_entropy_nats, std::log(4.0), 1e-12);
  EXPECT_NEAR(report.byte_unigram_entropy_nats, std::log(4.0), 1e-12);
}

TEST(Tokenize, EndOfDocumentNeedsAnId) {
  Fixture t;
  write_file(t.dir / "a.txt", "x");
  TokenizeOptions options = t.options({t.dir / "a.txt"});
  options.append_eod = true;
  EXPECT_CONTAINS(message_of<ConfigError>([&] { tokenize_files(options, t.pool); }), "'bytes', which has none");
}

TEST(Tokenize, NamesFileAndLineOfABrokenLine) {
  Fixture t;
  const std::string path = t.dir / "a.jsonl";
  const auto error = [&](const std::string& text) {
    write_file(path, text);
    return message_of<DataError>([&] { t.run({path}); });
  };
  const std::string good = "{\"text\":\"x\"}\n";
  EXPECT_CONTAINS(error(good + "\n" + good + "{\"text\": \"cut\n" + good + "[[[\n"), "is not JSON");
  EXPECT_CONTAINS(error(good + "\n" + good + "{\"text\": \"cut\n" + good + "[[[\n"), path + ":4");
  EXPECT_CONTAINS(error(good + "{\"txt\":\"x\", \"id\":1}\n"),
                  "in field \"text\", found fields: id, txt) at " + path + ":2");
  EXPECT_CONTAINS(error(good + "{\"text\":7}"), "found number) at " + path + ":2");
  EXPECT_CONTAINS(error("[\"text\"]"), "found no object");
  EXPECT_CONTAINS(error(good + "{\"text\":\"\xFF\""), "is not JSON");
  EXPECT_FALSE(file_exists(t.dir / "out.bin"));
  EXPECT_FALSE(file_exists(t.dir / "out.bin.tmp"));
  // Nesting must not exhaust the stack.
  EXPECT_CONTAINS(error(std::string(3'000'000, '[')), "is not JSON");
}

TEST(Tokenize, BrokenUtf8DoesNotStopIt) {
  Fixture t;
  write_file(t.dir / "a.txt", "a\xFF\xC3");
  write_file(t.dir / "b.jsonl", "{\"text\":\"b\xFF\"}\n");
  const TokenizeReport report = t.run({t.dir / "a.txt", t.dir / "b.jsonl"});
  EXPECT_EQ(documents(t.dir / "out"), (std::vector<std::string>{"a\xFF\xC3", "b\xEF\xBF\xBD"}));
  EXPECT_EQ(report.num_repaired_lines, 1);
  write_file(t.dir / "tok.model", tiny_sentencepiece());
  TokenizeOptions options = t.options({t.dir / "a.txt"});
  options.tokenizer = t.dir / "tok.model";
  EXPECT_GT(tokenize_files(options, t.pool).num_tokens, 0);
}

TEST(Tokenize, NamesABadInput) {
  Fixture t;
  const auto error = [&](const std::string& name, const std::string& bytes) {
    write_file(t.dir / name, bytes);
    const std::string message = message_of<DataError>([&] { t.run({t.dir / name}); });
    EXPECT_CONTAINS(message, t.dir / name);
    return message;
  };
  EXPECT_CONTAINS(message_of<DataError>([&] { t.run({t.dir / "none.txt"}); }),
                  "does not exist at " + (t.dir / "none.txt"));
  EXPECT_CONTAINS(message_of<DataError>([&] { t.run({t.dir.path()}); }), "is a directory");
  EXPECT_CONTAINS(error("a.gz", "not zipped"), "is not gzip");
  EXPECT_CONTAINS(error("empty.txt", ""), "hold no text");
  std::string text;
  for (int i = 0; i < 200000; ++i) text += std::to_string(i * 7919 % 104729);
  const std::string zipped = gzip(text);
  EXPECT_CONTAINS(error("b.txt.gz", zipped.substr(0, zipped.size() / 2)), "the gzip file is truncated");
  std::string damaged = zipped;
  damaged[damaged.size() - 6] = static_cast<char>(damaged[damaged.size() - 6] ^ 1);  // in the checksum
  EXPECT_CONTAINS(error("c.txt.gz", damaged), "cannot read the file (found");
}

TEST(Tokenize, NamesAnOutputThatCantBeWritten) {
  Fixture t;
  write_file(t.dir / "a.txt", "x");
  TokenizeOptions options = t.options({t.dir / "a.txt"});
  options.out_prefix = t.dir / "a.txt/out";
  EXPECT_CONTAINS(message_of<MachineError>([&] { tokenize_files(options, t.pool); }), t.dir / "a.txt/out.bin");
}

}  // namespace
}  // namespace trireme
