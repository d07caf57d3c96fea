#include "core/data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <filesystem>

#include "core/data/bpe/bpe_tokenizer.h"
#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace trireme {

namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD

class ByteTokenizer final : public Tokenizer {
 public:
  std::string name() const override { return "bytes"; }
  int64_t vocab_size() const override { return 256; }
  std::optional<int32_t> end_of_document() const override { return std::nullopt; }

  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    out.reserve(out.size() + text.size());
    for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id >= 0 && id < 256) {
        text.push_back(static_cast<char>(id));
      } else {
        text += kReplacement;
      }
    }
    return text;
  }
};

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& path) : path_(path) {
    const MappedFile file(path);
    const absl::string_view model(reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size_bytes()));
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok()) {
      throw DataError({.what = "cannot read the SentencePiece model",
                       .found = status.ToString(),
                       .where = path,
                       .hint = "copying the file again"});
    }
  }

  std::string name() const override { return path_; }
  int64_t vocab_size() const override { return processor_.GetPieceSize(); }

  std::optional<int32_t> end_of_document() const override {
    const int id = processor_.eos_id();
    return id >= 0 ? std::optional<int32_t>(id) : std::nullopt;
  }

  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(absl::string_view(text.data(), text.size()), &ids);
    if (!status.ok()) {
      throw DataError({.what = "SentencePiece cannot encode a text", .found = status.ToString(), .where = path_});
    }
    out.insert(out.end(), ids.begin(), ids.end());
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    std::vector<int> run;
    const auto flush = [&] {
      std::string part;
      const auto status = processor_.Decode(run, &part);
      TRIREME_CHECK(status.ok(), "SentencePiece cannot decode ids of its own range");
      text += part;
      run.clear();
    };
    for (const int32_t id : ids) {
      if (id >= 0 && id < processor_.GetPieceSize()) {
        run.push_back(id);
        continue;
      }
      flush();
      text += kReplacement;
    }
    flush();
    return text;
  }

 private:
  std::string path_;
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec) {
  if (spec == "bytes") return std::make_unique<ByteTokenizer>();
  std::error_code ignored;
  const bool directory = std::filesystem::is_directory(spec, ignored);
  if (directory && file_exists(spec + "/tokenizer.model")) {
    return std::make_unique<SentencePieceTokenizer>(spec + "/tokenizer.model");
  }
  if (directory && file_exists(spec + "/tokenizer.json")) return bpe::make_bpe_tokenizer(spec + "/tokenizer.json");
  if (directory) {
    throw DataError(
        {.what = "the directory holds no tokenizer", .expected = "tokenizer.model or tokenizer.json", .where = spec});
  }
  if (!file_exists(spec)) {
    throw DataError({.what = "there is no such tokenizer",
                     .expected = "bytes, or the path of a SentencePiece .model or a tokenizer.json",
                     .found = "'" + spec + "'"});
  }
  if (spec.ends_with(".json")) return bpe::make_bpe_tokenizer(spec);
  return std::make_unique<SentencePieceTokenizer>(spec);
}

}  // namespace trireme
