#include "core/formats/megatron.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <limits>

namespace trireme {

namespace {

constexpr std::array<char, 9> kMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr int64_t kHeaderBytes = 34;
constexpr uint64_t kVersion = 1;

// Code 6 is f64 and 7 is f32: features, not tokens.
int dtype_code(TokenDType dtype) {
  switch (dtype) {
    case TokenDType::u8: return 1;
    case TokenDType::i8: return 2;
    case TokenDType::i16: return 3;
    case TokenDType::i32: return 4;
    case TokenDType::i64: return 5;
    case TokenDType::u16: return 8;
    case TokenDType::u32: break;
  }
  TRIREME_CHECK(false, "Megatron's format has no code for this dtype");
  return 0;
}

TokenDType dtype_from_code(int code, const std::string& path) {
  for (const TokenDType dtype :
       {TokenDType::u8, TokenDType::i8, TokenDType::i16, TokenDType::i32, TokenDType::i64, TokenDType::u16}) {
    if (dtype_code(dtype) == code) return dtype;
  }
  throw DataError({.what = "the index names a dtype that tokens can't have",
                   .expected = "1 (u8), 2 (i8), 3 (i16), 4 (i32), 5 (i64) or 8 (u16)",
                   .found = std::to_string(code) + (code == 6   ? " (f64)"
                                                    : code == 7 ? " (f32)"
                                                                : ""),
                   .where = path + ", byte 17"});
}

std::string show(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte byte : bytes) {
    constexpr const char* kDigits = "0123456789ABCDEF";
    if (!out.empty()) out += ' ';
    out += kDigits[static_cast<int>(byte) >> 4];
    out += kDigits[static_cast<int>(byte) & 15];
  }
  return out;
}

[[noreturn]] void fail_index(const std::string& what, const std::string& expected, const std::string& found,
                             const std::string& where) {
  throw DataError({.what = what,
                   .expected = expected,
                   .found = found,
                   .where = where,
                   .hint = "copying or making .bin and .idx again, together"});
}

// Each sequence begins where the one before ends. The number of tokens of all.
int64_t check_sequences(const MappedFile& index, int64_t num_sequences, int64_t width) {
  int64_t num_tokens = 0;
  for (int64_t s = 0; s < num_sequences; ++s) {
    const auto length = index.at<int32_t>(kHeaderBytes + 4 * s);
    const auto offset = index.at<int64_t>(kHeaderBytes + 4 * num_sequences + 8 * s);
    if (length >= 0 && offset == num_tokens * width) {
      num_tokens += length;
      continue;
    }
    const std::string where = "sequence " + std::to_string(s) + " of " + index.path();
    if (length < 0) fail_index("a sequence has a negative length", "0 or more", std::to_string(length), where);
    fail_index("the index's offsets don't follow from its lengths", "byte " + std::to_string(num_tokens * width),
               "byte " + std::to_string(offset), where);
  }
  return num_tokens;
}

// Mode 0 is text.
void check_modes(const MappedFile& index, int64_t modes_at, int64_t num_sequences) {
  for (int64_t s = 0; s < num_sequences; ++s) {
    if (index.at<int8_t>(modes_at + s) == 0) continue;
    throw DataError({.what = "the index holds multimodal data",
                     .expected = "text only",
                     .where = "sequence " + std::to_string(s) + " of " + index.path()});
  }
}

// First 0, never falling, last the number of sequences.
void check_documents(const MappedFile& index, int64_t documents_at, int64_t num_entries, int64_t num_sequences) {
  int64_t previous = 0;
  for (int64_t d = 0; d < num_entries; ++d) {
    const auto first = index.at<int64_t>(documents_at + 8 * d);
    const bool good = first >= previous && first <= num_sequences && (d > 0 || first == 0);
    previous = first;
    if (good) continue;
    const std::string where = "document " + std::to_string(d) + " of " + index.path();
    if (d == 0) fail_index("the document array doesn't begin at 0", "0", std::to_string(first), where);
    fail_index("the document array is not in order",
               std::to_string(index.at<int64_t>(documents_at + 8 * (d - 1))) + " to " + std::to_string(num_sequences),
               std::to_string(first), where);
  }
  if (previous != num_sequences) {
    fail_index("the document array doesn't end at the last sequence", std::to_string(num_sequences),
               std::to_string(previous), index.path());
  }
}

}  // namespace

struct MegatronSource::Index {
  MappedFile index;
  MappedFile tokens;
  TokenDType dtype;
  int64_t num_sequences;
  int64_t num_documents;
  int64_t num_tokens;
};

// The header: magic, version, dtype and counts, and that the file is as long as they say.
MegatronSource::Index MegatronSource::read_index(const std::string& prefix) {
  MappedFile index(prefix + ".idx");
  const std::string& path = index.path();
  const int64_t magic_bytes = std::min<int64_t>(index.size_bytes(), kMagic.size());
  if (magic_bytes < static_cast<int64_t>(kMagic.size()) ||
      std::memcmp(index.data(), kMagic.data(), kMagic.size()) != 0) {
    throw DataError({.what = "this is not a Megatron index: wrong magic",
                     .expected = show(std::as_bytes(std::span(kMagic))),
                     .found = show(index.bytes(0, magic_bytes)),
                     .where = path});
  }
  if (index.size_bytes() < kHeaderBytes) {
    fail_index("the index is truncated", "at least 34 bytes", std::to_string(index.size_bytes()), path);
  }
  const auto version = index.at<uint64_t>(9);
  if (version != kVersion) {
    throw DataError({.what = "this version of the Megatron index is not supported",
                     .expected = "1",
                     .found = std::to_string(version),
                     .where = path + ", byte 9"});
  }
  const TokenDType dtype = dtype_from_code(index.at<uint8_t>(17), path);
  const auto sequences = index.at<uint64_t>(18);
  const auto entries = index.at<uint64_t>(26);
  const auto size = static_cast<uint64_t>(index.size_bytes());
  const bool absurd = sequences > size / 12 || entries > size / 8;
  const uint64_t needed = absurd ? 0 : kHeaderBytes + 12 * sequences + 8 * entries;
  const bool multimodal = !absurd && size == needed + sequences;
  if (absurd || entries == 0 || (size != needed && !multimodal)) {
    fail_index(
        absurd || size < needed ? "the index is truncated, or its counts are wrong" : "the index's counts are wrong",
        absurd ? "a file that holds " + std::to_string(sequences) + " sequences and " + std::to_string(entries) +
                     " document entries"
               : std::to_string(needed) + " bytes for " + std::to_string(sequences) + " sequences and " +
                     std::to_string(entries) + " document entries",
        std::to_string(size) + " bytes", path);
  }

  const auto num_sequences = static_cast<int64_t>(sequences);
  const int64_t num_tokens = check_sequences(index, num_sequences, token_dtype_bytes(dtype));
  if (multimodal) check_modes(index, static_cast<int64_t>(needed), num_sequences);
  const auto num_entries = static_cast<int64_t>(entries);
  check_documents(index, kHeaderBytes + 12 * num_sequences, num_entries, num_sequences);
  MappedFile tokens(prefix + ".bin");
  return {std::move(index), std::move(tokens), dtype, num_sequences, num_entries - 1, num_tokens};
}

MegatronSource::MegatronSource(const std::string& prefix) : MegatronSource(read_index(prefix)) {}

MegatronSource::MegatronSource(Index index)
    : TokenSource(std::move(index.tokens), index.dtype, /*data_offset=*/0, index.num_tokens),
      index_(std::move(index.index)),
      num_sequences_(index.num_sequences),
      num_documents_(index.num_documents) {}

int64_t MegatronSource::document_begin(int64_t document) const {
  const auto sequence = index_.at<int64_t>(kHeaderBytes + 12 * num_sequences_ + 8 * document);
  if (sequence == num_sequences_) return num_tokens();
  return index_.at<int64_t>(kHeaderBytes + 4 * num_sequences_ + 8 * sequence) / token_dtype_bytes(dtype());
}

MegatronWriter::MegatronWriter(const std::string& prefix, TokenDType dtype)
    : prefix_(prefix), dtype_(dtype), tokens_(prefix + ".bin") {
  TRIREME_CHECK(dtype == TokenDType::u8 || dtype == TokenDType::u16 || dtype == TokenDType::i32 ||
                dtype == TokenDType::i64);
}

void MegatronWriter::append(std::span<const int32_t> tokens) {
  const auto write_as = [&]<class T>(T) {
    scratch_.resize(tokens.size() * sizeof(T));
    T* out = reinterpret_cast<T*>(scratch_.data());
    bool fits = true;
    for (size_t i = 0; i < tokens.size(); ++i) {
      out[i] = static_cast<T>(tokens[i]);
      fits &= tokens[i] >= 0 && static_cast<int64_t>(out[i]) == tokens[i];
    }
    TRIREME_CHECK(fits, "a token id doesn't fit the file's dtype");
  };
  switch (dtype_) {
    case TokenDType::u8: write_as(uint8_t{}); break;
    case TokenDType::u16: write_as(uint16_t{}); break;
    case TokenDType::i32: write_as(int32_t{}); break;
    default: write_as(int64_t{}); break;
  }
  tokens_.append(scratch_);
  const auto count = static_cast<int64_t>(tokens.size());
  // A sequence's length is an i32; a longer document becomes several sequences.
  constexpr int64_t kMaxSequence = std::numeric_limits<int32_t>::max();
  TRIREME_CHECK(count <= kMaxSequence);
  if (open_tokens_ + count > kMaxSequence) end_sequence();
  open_tokens_ += count;
  num_tokens_ += count;
}

void MegatronWriter::end_sequence() {
  lengths_.push_back(static_cast<int32_t>(open_tokens_));
  open_tokens_ = 0;
}

void MegatronWriter::end_document() {
  end_sequence();
  document_ends_.push_back(static_cast<int64_t>(lengths_.size()));
}

void MegatronWriter::finish() {
  TRIREME_CHECK(open_tokens_ == 0, "a document was not ended");
  AtomicFile index(prefix_ + ".idx");
  index.append(std::as_bytes(std::span(kMagic)));
  index.append_value(kVersion);
  index.append_value(static_cast<uint8_t>(dtype_code(dtype_)));
  index.append_value(static_cast<uint64_t>(lengths_.size()));
  index.append_value(static_cast<uint64_t>(document_ends_.size() + 1));
  index.append(std::as_bytes(std::span(lengths_)));
  int64_t offset = 0;
  for (const int32_t length : lengths_) {
    index.append_value(offset);
    offset += length * token_dtype_bytes(dtype_);
  }
  index.append_value(int64_t{0});
  index.append(std::as_bytes(std::span(document_ends_)));
  // An old index must not stand beside the new tokens, not even for a moment.
  std::error_code ignored;
  std::filesystem::remove(prefix_ + ".idx", ignored);
  tokens_.commit();
  index.commit();
}

}  // namespace trireme
