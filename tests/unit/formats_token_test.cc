// Token files: bytes written here by hand, from the owners' descriptions of the formats.
#include <numeric>
#include <vector>

#include "core/formats/datatrove.h"
#include "core/formats/llmc.h"
#include "core/formats/megatron.h"
#include "core/formats/token_source.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::Bytes;
using testing::message_of;
using testing::TempDir;
using testing::write_file;

std::vector<int32_t> read_all(const TokenSource& source) {
  std::vector<int32_t> out(static_cast<size_t>(source.num_tokens()));
  source.read(0, out);
  return out;
}

std::vector<int64_t> document_begins(const TokenSource& source) {
  std::vector<int64_t> out;
  for (int64_t d = 0; d <= source.num_documents(); ++d) out.push_back(source.document_begin(d));
  return out;
}

// Four sequences of 3, 2, 0 and 4 tokens in three documents (the first has two sequences), u16.
struct Megatron {
  TempDir dir;
  std::string prefix = dir / "corpus";
  std::string bin = Bytes().all<uint16_t>({1, 2, 3, 10, 11, 65535, 7, 8, 9}).data;
  std::string magic = std::string("MMIDIDX\0\0", 9);
  uint64_t version = 1;
  uint8_t dtype = 8;
  uint64_t sequences = 4;
  uint64_t entries = 4;
  std::vector<int32_t> lengths = {3, 2, 0, 4};
  std::vector<int64_t> offsets = {0, 6, 10, 10};
  std::vector<int64_t> documents = {0, 2, 3, 4};
  std::string tail;

  std::string idx() const {
    Bytes bytes;
    bytes.text(magic).put(version).put(dtype).put(sequences).put(entries);
    for (const int32_t x : lengths) bytes.put(x);
    for (const int64_t x : offsets) bytes.put(x);
    for (const int64_t x : documents) bytes.put(x);
    return bytes.text(tail).data;
  }
  std::unique_ptr<TokenSource> open() const {
    write_file(prefix + ".bin", bin);
    write_file(prefix + ".idx", idx());
    return open_token_source(prefix);
  }
  std::string error() const {
    return message_of<DataError>([&] { open(); });
  }
};

TEST(MegatronFormat, ReadsBytesWrittenByHand) {
  const Megatron files;
  const auto source = files.open();
  EXPECT_EQ(source->format(), "megatron");
  EXPECT_EQ(source->path(), files.prefix + ".bin");
  EXPECT_EQ(source->dtype(), TokenDType::u16);
  EXPECT_EQ(read_all(*source), (std::vector<int32_t>{1, 2, 3, 10, 11, 65535, 7, 8, 9}));
  EXPECT_EQ(document_begins(*source), (std::vector<int64_t>{0, 5, 5, 9}));
  std::vector<int64_t> at;
  for (int64_t t = 0; t < 9; ++t) at.push_back(source->document_at(t));
  EXPECT_EQ(at, (std::vector<int64_t>{0, 0, 0, 0, 0, 2, 2, 2, 2}));  // document 1 is empty
}

TEST(MegatronFormat, OpensByAnyOfItsNames) {
  const Megatron files;
  files.open();
  EXPECT_EQ(open_token_source(files.prefix + ".bin")->num_tokens(), 9);
  EXPECT_EQ(open_token_source(files.prefix + ".idx")->num_tokens(), 9);
}

template <class T>
void expect_reads_dtype(uint8_t code) {
  Megatron files;
  files.dtype = code;
  files.bin = Bytes().all<T>({5, 0, 7, 100}).data;
  files.sequences = 1;
  files.entries = 2;
  files.lengths = {4};
  files.offsets = {0};
  files.documents = {0, 1};
  EXPECT_EQ(read_all(*files.open()), (std::vector<int32_t>{5, 0, 7, 100})) << "dtype code " << int{code};
}

TEST(MegatronFormat, ReadsEveryIntegerType) {
  expect_reads_dtype<uint8_t>(1);
  expect_reads_dtype<int8_t>(2);
  expect_reads_dtype<int16_t>(3);
  expect_reads_dtype<int32_t>(4);
  expect_reads_dtype<int64_t>(5);
  expect_reads_dtype<uint16_t>(8);
}

TEST(MegatronFormat, NamesAMissingFile) {
  const Megatron files;
  const std::string nothing = message_of<DataError>([&] { open_token_source(files.prefix); });
  EXPECT_CONTAINS(nothing, "there is no token file");
  EXPECT_CONTAINS(nothing, files.prefix + ".idx");
  EXPECT_CONTAINS(nothing, "trireme data tokenize");
  files.open();
  std::filesystem::remove(files.prefix + ".bin");
  EXPECT_CONTAINS(message_of<DataError>([&] { open_token_source(files.prefix); }),
                  "does not exist at " + files.prefix + ".bin");
  write_file(files.prefix + ".bin", files.bin);
  std::filesystem::remove(files.prefix + ".idx");
  const std::string lost_index = message_of<DataError>([&] { open_token_source(files.prefix); });
  EXPECT_CONTAINS(lost_index, "cannot tell the format");
  EXPECT_CONTAINS(lost_index, files.prefix + ".idx");
}

TEST(MegatronFormat, NamesEmptyAndTruncatedFiles) {
  Megatron files;
  const std::string bin = files.bin;
  files.bin = "";
  EXPECT_CONTAINS(files.error(), "the file is empty");
  files.bin = bin.substr(0, 17);
  EXPECT_CONTAINS(files.error(), "the token file is truncated (expected 9 tokens of u16, found 17 bytes");
  files.bin = bin + "xx";
  EXPECT_CONTAINS(files.error(), "length is wrong");
  files.bin = bin;
  const std::string idx = files.idx();
  for (const size_t bytes : {size_t{0}, size_t{5}, size_t{20}, idx.size() - 1}) {
    write_file(files.prefix + ".idx", idx.substr(0, bytes));
    const std::string message = message_of<DataError>([&] { open_token_source(files.prefix); });
    EXPECT_CONTAINS(message, files.prefix + ".idx");
  }
  EXPECT_CONTAINS(message_of<DataError>([&] { open_token_source(files.prefix); }), "truncated");
}

TEST(MegatronFormat, NamesAWrongHeader) {
  Megatron files;
  files.magic = std::string("MMIDIDY\0\0", 9);
  EXPECT_CONTAINS(files.error(), "wrong magic (expected 4D 4D 49 44 49 44 58 00 00, found 4D 4D 49 44 49 44 59 00 00)");
  files.magic = std::string("MMIDIDX\0\0", 9);
  files.version = 2;
  EXPECT_CONTAINS(files.error(), "version of the Megatron index is not supported (expected 1, found 2)");
  files.version = 1;
  files.dtype = 7;
  EXPECT_CONTAINS(files.error(), "found 7 (f32)");
  files.dtype = 9;
  EXPECT_CONTAINS(files.error(), "found 9)");
}

TEST(MegatronFormat, NamesWrongCounts) {
  Megatron files;
  files.sequences = 5;
  EXPECT_CONTAINS(files.error(), "counts are wrong");
  files.sequences = ~uint64_t{0};  // overflows every product
  EXPECT_CONTAINS(files.error(), "counts are wrong");
  files.sequences = 4;
  files.entries = 3;
  EXPECT_CONTAINS(files.error(), "counts are wrong");
  files.entries = uint64_t{1} << 61;
  EXPECT_CONTAINS(files.error(), "counts are wrong");
  files.entries = 0;
  EXPECT_CONTAINS(files.error(), "counts are wrong");
}

TEST(MegatronFormat, NamesInconsistentLengthsAndOffsets) {
  Megatron files;
  files.lengths = {3, -2, 0, 4};
  EXPECT_CONTAINS(files.error(), "negative length (expected 0 or more, found -2) at sequence 1");
  files.lengths = {3, 2, 0, 4};
  files.offsets = {0, 8, 10, 10};
  EXPECT_CONTAINS(files.error(), "(expected byte 6, found byte 8) at sequence 1");
  files.offsets = {0, 6, 10, 10};
  files.lengths = {3, 2, 0, 5};  // one token more than the .bin holds
  EXPECT_CONTAINS(files.error(), "truncated (expected 10 tokens");
}

TEST(MegatronFormat, NamesAWrongDocumentArray) {
  Megatron files;
  files.documents = {1, 2, 3, 4};
  EXPECT_CONTAINS(files.error(), "doesn't begin at 0");
  files.documents = {0, 3, 2, 4};
  EXPECT_CONTAINS(files.error(), "not in order (expected 3 to 4, found 2) at document 2");
  files.documents = {0, 2, 3, 3};
  EXPECT_CONTAINS(files.error(), "doesn't end at the last sequence (expected 4, found 3)");
}

TEST(MegatronFormat, TakesTextModesAndRefusesImages) {
  Megatron files;
  files.tail = std::string(4, '\0');
  EXPECT_EQ(files.open()->num_tokens(), 9);
  files.tail[2] = 1;
  EXPECT_CONTAINS(files.error(), "multimodal");
}

TEST(TokenSource, NamesFileAndOffsetOfAWrongId) {
  const Megatron files;
  const auto source = files.open();
  std::vector<int32_t> out(4);
  source->read(0, out, 12);
  const std::string message = message_of<DataError>([&] { source->read(3, out, 12); });
  EXPECT_CONTAINS(message, "(expected 0 <= id < 12, found 65535) at " + files.prefix + ".bin, token 5 (byte 10)");
  EXPECT_CONTAINS(message, "at least 65536");
}

TEST(TokenSource, RefusesIdsThatInt32CantHold) {
  Megatron files;
  files.dtype = 5;
  files.bin = Bytes().all<int64_t>({1, int64_t{1} << 32, -1}).data;
  files.sequences = 1;
  files.entries = 2;
  files.lengths = {3};
  files.offsets = {0};
  files.documents = {0, 1};
  const auto source = files.open();
  std::vector<int32_t> one(1);
  EXPECT_CONTAINS(message_of<DataError>([&] { source->read(1, one); }), "found 4294967296)");
  EXPECT_CONTAINS(message_of<DataError>([&] { source->read(2, one); }), "found -1)");
}

TEST(MegatronWriter, WritesTheBytesOfTheFormat) {
  const Megatron expected;
  MegatronWriter writer(expected.prefix, TokenDType::u16);
  writer.append(std::vector<int32_t>{1, 2, 3});
  writer.append(std::vector<int32_t>{10, 11});
  writer.end_document();
  writer.end_document();
  writer.append(std::vector<int32_t>{65535, 7, 8, 9});
  writer.end_document();
  EXPECT_FALSE(file_exists(expected.prefix + ".bin")) << "files appear only when finished";
  writer.finish();
  Megatron three;
  three.sequences = 3;
  three.lengths = {5, 0, 4};
  three.offsets = {0, 10, 10};
  three.documents = {0, 1, 2, 3};
  EXPECT_EQ(testing::read_file(expected.prefix + ".bin"), expected.bin);
  EXPECT_EQ(testing::read_file(expected.prefix + ".idx"), three.idx());
}

TEST(MegatronWriter, RoundTrip) {
  const TempDir dir;
  for (const TokenDType dtype : {TokenDType::u8, TokenDType::u16, TokenDType::i32, TokenDType::i64}) {
    MegatronWriter writer(dir / "new/folder/corpus", dtype);
    std::vector<int32_t> all;
    for (int d = 0; d < 50; ++d) {
      std::vector<int32_t> document(static_cast<size_t>(d * 37 % 101));
      for (auto& id : document) id = static_cast<int32_t>((all.size() + document.size()) * 7919 % 251);
      writer.append(document);
      writer.end_document();
      all.insert(all.end(), document.begin(), document.end());
    }
    writer.finish();
    const auto source = open_token_source(dir / "new/folder/corpus");
    EXPECT_EQ(source->dtype(), dtype);
    EXPECT_EQ(source->num_documents(), 50);
    EXPECT_EQ(read_all(*source), all);
  }
}

TEST(MegatronWriter, LeavesNothingWhenNotFinished) {
  const Megatron files;
  files.open();
  {
    MegatronWriter writer(files.prefix, TokenDType::u16);
    writer.append(std::vector<int32_t>(1000, 1));
  }
  EXPECT_EQ(testing::read_file(files.prefix + ".bin"), files.bin);
  EXPECT_FALSE(file_exists(files.prefix + ".bin.tmp"));
}

std::string llmc_file(int32_t magic, int32_t version, int32_t count, const std::string& tokens) {
  return Bytes().put(magic).put(version).put(count).zeros(1024 - 12).text(tokens).data;
}

TEST(LlmcFormat, ReadsBothVariants) {
  const TempDir dir;
  write_file(dir / "gpt2.bin", llmc_file(20240520, 1, 3, Bytes().all<uint16_t>({50256, 1, 2}).data));
  write_file(dir / "llama.bin", llmc_file(20240801, 7, 2, Bytes().all<uint32_t>({128000, 9}).data));
  const auto gpt2 = open_token_source(dir / "gpt2.bin");
  EXPECT_EQ(gpt2->format(), "llm.c");
  EXPECT_EQ(read_all(*gpt2), (std::vector<int32_t>{50256, 1, 2}));
  EXPECT_EQ(document_begins(*gpt2), (std::vector<int64_t>{0, 3}));
  const auto llama = open_token_source(dir / "llama");
  EXPECT_EQ(read_all(*llama), (std::vector<int32_t>{128000, 9}));
  EXPECT_EQ(llama->document_at(1), 0);
}

TEST(LlmcFormat, NamesWhatIsWrong) {
  const TempDir dir;
  const std::string path = dir / "a.bin";
  const std::string tokens = Bytes().all<uint16_t>({1, 2, 3}).data;
  const auto error = [&](const std::string& bytes) {
    write_file(path, bytes);
    return message_of<DataError>([&] { LlmcSource source(path); });
  };
  EXPECT_CONTAINS(error(""), "the file is empty");
  EXPECT_CONTAINS(error("abc"), "wrong magic");
  EXPECT_CONTAINS(error(llmc_file(20240521, 1, 3, tokens)), "found 20240521) at " + path);
  EXPECT_CONTAINS(error(llmc_file(20240520, 2, 3, tokens)), "not supported (expected 1, found 2)");
  EXPECT_CONTAINS(error(llmc_file(20240520, 1, 3, tokens).substr(0, 1000)), "a header of 1024 bytes");
  EXPECT_CONTAINS(error(llmc_file(20240520, 1, 4, tokens)), "truncated (expected 4 tokens of u16, found 6 bytes");
  EXPECT_CONTAINS(error(llmc_file(20240520, 1, 2, tokens)), "length is wrong");
  EXPECT_CONTAINS(error(llmc_file(20240520, 1, -1, tokens)), "length is wrong");
  EXPECT_CONTAINS(error(llmc_file(20240520, 1, 0, "")), "holds no tokens");
  EXPECT_CONTAINS(message_of<DataError>([&] { LlmcSource source(dir / "none.bin"); }), "does not exist");
}

struct Datatrove {
  TempDir dir;
  std::string path = dir / "x.ds";
  std::string tokens = Bytes().all<uint16_t>({5, 6, 7, 8, 65000}).data;
  std::string index = Bytes().all<uint64_t>({2, 2, 5}).data;
  std::string metadata = "some|odd/tokenizer|2\n5\n5 tokens";

  std::unique_ptr<TokenSource> open() const {
    write_file(path, tokens);
    write_file(path + ".index", index);
    if (!metadata.empty()) write_file(path + ".metadata", metadata);
    return open_token_source(dir / "x");
  }
  std::string error() const {
    return message_of<DataError>([&] { open(); });
  }
};

TEST(DatatroveFormat, ReadsBytesWrittenByHand) {
  Datatrove files;
  const auto source = files.open();
  EXPECT_EQ(source->format(), "datatrove");
  EXPECT_EQ(read_all(*source), (std::vector<int32_t>{5, 6, 7, 8, 65000}));
  EXPECT_EQ(document_begins(*source), (std::vector<int64_t>{0, 2, 2, 5}));
  EXPECT_EQ(source->document_at(2), 2);
  for (const char* name : {"x.ds", "x.ds.index", "x.ds.metadata"}) {
    EXPECT_EQ(open_token_source(files.dir / name)->num_tokens(), 5) << name;
  }
}

TEST(DatatroveFormat, FindsTheWidthWithoutMetadata) {
  Datatrove files;
  files.metadata = "";
  EXPECT_EQ(files.open()->dtype(), TokenDType::u16);
  files.tokens = Bytes().all<uint32_t>({5, 6, 7, 8, 128000}).data;
  const auto source = files.open();
  EXPECT_EQ(source->dtype(), TokenDType::u32);
  EXPECT_EQ(read_all(*source).back(), 128000);
  files.tokens += "xxxx";
  EXPECT_CONTAINS(files.error(), "disagree (expected 5 tokens of 2 or 4 bytes, found 24 bytes)");
}

TEST(DatatroveFormat, NamesWhatIsWrong) {
  const Datatrove good;
  EXPECT_CONTAINS(message_of<DataError>([&] { open_token_source(good.path); }), "does not exist at " + good.path);
  Datatrove files;
  files.index = Bytes().all<uint64_t>({2, 1, 5}).data;
  EXPECT_CONTAINS(files.error(), "not in order (expected at least 2, found 1) at document 1");
  files.index = Bytes().all<uint64_t>({2, ~uint64_t{0}, 5}).data;
  EXPECT_CONTAINS(files.error(), "found 18446744073709551615");
  files.index = Bytes().all<uint64_t>({2, 5}).data + "abc";
  EXPECT_CONTAINS(files.error(), "the index is truncated");
  files.index = "";
  EXPECT_CONTAINS(files.error(), "the file is empty");
  files.index = Bytes().all<uint64_t>({2, 4}).data;
  EXPECT_CONTAINS(files.error(), "different numbers of tokens (expected 5");
  files.metadata = "tokenizer|2\n4";
  EXPECT_CONTAINS(files.error(), "length is wrong (expected 4 tokens of u16, found 10 bytes");
  files.index = Bytes().all<uint64_t>({2, 6}).data;
  files.metadata = "tokenizer|2\n6";
  EXPECT_CONTAINS(files.error(), "truncated (expected 6 tokens");
  files.metadata = "tokenizer|3\n6";
  EXPECT_CONTAINS(files.error(), "found \"tokenizer|3\"");
  files.metadata = "no bar";
  EXPECT_CONTAINS(files.error(), "how wide a token is");
}

TEST(TokenSource, VocabularyChoosesTheType) {
  EXPECT_EQ(token_dtype_for_vocabulary(65499), TokenDType::u16);
  EXPECT_EQ(token_dtype_for_vocabulary(65500), TokenDType::i32);
}

}  // namespace
}  // namespace trireme
