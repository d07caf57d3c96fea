#include "core/formats/token_source.h"

#include "core/formats/datatrove.h"
#include "core/formats/llmc.h"
#include "core/formats/megatron.h"

namespace trireme {

int64_t token_dtype_bytes(TokenDType dtype) {
  switch (dtype) {
    case TokenDType::u8:
    case TokenDType::i8: return 1;
    case TokenDType::u16:
    case TokenDType::i16: return 2;
    case TokenDType::u32:
    case TokenDType::i32: return 4;
    case TokenDType::i64: return 8;
  }
  return 0;
}

std::string token_dtype_name(TokenDType dtype) {
  switch (dtype) {
    case TokenDType::u8: return "u8";
    case TokenDType::i8: return "i8";
    case TokenDType::u16: return "u16";
    case TokenDType::i16: return "i16";
    case TokenDType::u32: return "u32";
    case TokenDType::i32: return "i32";
    case TokenDType::i64: return "i64";
  }
  return "?";
}

TokenDType token_dtype_for_vocabulary(int64_t vocab_size) {
  return vocab_size < 65500 ? TokenDType::u16 : TokenDType::i32;
}

TokenSource::TokenSource(MappedFile tokens, TokenDType dtype, int64_t data_offset, int64_t num_tokens)
    : tokens_(std::move(tokens)), dtype_(dtype), data_offset_(data_offset), num_tokens_(num_tokens) {
  const int64_t found = tokens_.size_bytes() - data_offset;
  const int64_t width = token_dtype_bytes(dtype);
  // Division, because a wrong count from a header may overflow the product.
  if (num_tokens < 0 || found % width != 0 || found / width != num_tokens) {
    const bool truncated = num_tokens >= 0 && found / width < num_tokens;
    throw DataError({.what = truncated ? "the token file is truncated" : "the token file's length is wrong",
                     .expected = std::to_string(num_tokens) + " tokens of " + token_dtype_name(dtype),
                     .found = std::to_string(found) + " bytes of tokens",
                     .where = path(),
                     .hint = "copying or making the file again, with the index that belongs to it"});
  }
  if (num_tokens == 0) {
    throw DataError({.what = "the token file holds no tokens", .where = path(), .hint = "making it again"});
  }
}

int64_t TokenSource::document_at(int64_t token) const {
  TRIREME_CHECK(token >= 0 && token < num_tokens_);
  // The first document that ends after the token.
  int64_t low = 0;
  int64_t high = num_documents() - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (document_begin(middle + 1) > token) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

namespace {

// Converts and checks without a branch per token. Negative ids become huge as unsigned numbers, so that one
// comparison finds both ends.
template <class T>
bool convert(const std::byte* data, std::span<int32_t> out, int64_t vocab_size) {
  const T* tokens = reinterpret_cast<const T*>(data);
  bool bad = false;
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t id = static_cast<int64_t>(tokens[i]);
    bad |= static_cast<uint64_t>(id) >= static_cast<uint64_t>(vocab_size);
    out[i] = static_cast<int32_t>(id);
  }
  return !bad;
}

template <class T>
[[noreturn]] void fail_token(const TokenSource& source, const std::byte* data, int64_t begin, int64_t data_offset,
                             int64_t vocab_size) {
  const T* tokens = reinterpret_cast<const T*>(data);
  int64_t i = 0;
  while (static_cast<uint64_t>(static_cast<int64_t>(tokens[i])) < static_cast<uint64_t>(vocab_size)) ++i;
  const int64_t id = static_cast<int64_t>(tokens[i]);
  const int64_t token = begin + i;
  const bool vocabulary_given = vocab_size < kMaxVocabulary;
  throw DataError(
      {.what = "token id outside the vocabulary",
       .expected = "0 <= id < " + std::to_string(vocab_size),
       .found = std::to_string(id),
       .where = source.path() + ", token " + std::to_string(token) + " (byte " +
                std::to_string(data_offset + token * static_cast<int64_t>(sizeof(T))) + ")",
       .hint = vocabulary_given && id > 0
                   ? "data made with the model's tokenizer, or model.vocab_size of at least " + std::to_string(id + 1)
                   : "making the file again"});
}

}  // namespace

void TokenSource::read(int64_t begin, std::span<int32_t> out, int64_t vocab_size) const {
  const int64_t count = static_cast<int64_t>(out.size());
  TRIREME_CHECK(begin >= 0 && begin <= num_tokens_ && count <= num_tokens_ - begin, "read outside the token file");
  TRIREME_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary);
  const std::byte* data = tokens_.data() + data_offset_ + begin * token_dtype_bytes(dtype_);
  const auto read_as = [&]<class T>(T) {
    if (!convert<T>(data, out, vocab_size)) fail_token<T>(*this, data, begin, data_offset_, vocab_size);
  };
  switch (dtype_) {
    case TokenDType::u8: return read_as(uint8_t{});
    case TokenDType::i8: return read_as(int8_t{});
    case TokenDType::u16: return read_as(uint16_t{});
    case TokenDType::i16: return read_as(int16_t{});
    case TokenDType::u32: return read_as(uint32_t{});
    case TokenDType::i32: return read_as(int32_t{});
    case TokenDType::i64: return read_as(int64_t{});
  }
}

std::unique_ptr<TokenSource> open_token_source(const std::string& path) {
  // A full file name becomes its prefix; the longest extension first.
  std::string prefix = path;
  std::string extension;
  for (const std::string known : {".ds.index", ".ds.metadata", ".ds", ".idx", ".bin"}) {
    if (extension.empty() && path.ends_with(known)) {
      extension = known;
      prefix = path.substr(0, path.size() - known.size());
    }
  }
  const bool wants_datatrove = extension.starts_with(".ds");
  if (!wants_datatrove && (file_exists(prefix + ".idx") || extension == ".idx")) {
    return std::make_unique<MegatronSource>(prefix);
  }
  if (!wants_datatrove && file_exists(prefix + ".bin")) {
    if (LlmcSource::recognizes(prefix + ".bin")) return std::make_unique<LlmcSource>(prefix + ".bin");
    throw DataError({.what = "cannot tell the format of the token file",
                     .expected = prefix + ".idx beside it (Megatron), or the header of llm.c in it",
                     .found = "neither",
                     .where = prefix + ".bin",
                     .hint = "copying the .idx too, or `trireme data tokenize` to make both"});
  }
  if (wants_datatrove || file_exists(prefix + ".ds")) return std::make_unique<DatatroveSource>(prefix + ".ds");
  throw DataError(
      {.what = "there is no token file",
       .expected = prefix + ".bin with " + prefix + ".idx, or " + prefix + ".ds",
       .found = "none of them",
       .where = path,
       .hint = "`trireme data tokenize INPUT --tokenizer bytes --out " + prefix + "`, or another data path"});
}

}  // namespace trireme
