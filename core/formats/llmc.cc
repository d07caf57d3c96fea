#include "core/formats/llmc.h"

namespace trireme {

namespace {

constexpr int64_t kHeaderBytes = 1024;

struct Variant {
  int32_t magic;
  int32_t version;
  TokenDType dtype;
};
constexpr Variant kVariants[] = {{20240520, 1, TokenDType::u16}, {20240801, 7, TokenDType::u32}};

const Variant* find_variant(const MappedFile& file) {
  if (file.size_bytes() < 4) return nullptr;
  for (const Variant& variant : kVariants) {
    if (file.at<int32_t>(0) == variant.magic) return &variant;
  }
  return nullptr;
}

}  // namespace

bool LlmcSource::recognizes(const std::string& path) { return find_variant(MappedFile(path)) != nullptr; }

LlmcSource::Header LlmcSource::read_header(const MappedFile& file) {
  const Variant* variant = find_variant(file);
  if (variant == nullptr) {
    throw DataError({.what = "this is not an llm.c token file: wrong magic",
                     .expected = "20240520 (GPT-2) or 20240801 (Llama 3)",
                     .found = file.size_bytes() < 4 ? "a file of " + std::to_string(file.size_bytes()) + " bytes"
                                                    : std::to_string(file.at<int32_t>(0)),
                     .where = file.path()});
  }
  if (file.size_bytes() < kHeaderBytes) {
    throw DataError({.what = "the token file is truncated",
                     .expected = "a header of 1024 bytes",
                     .found = std::to_string(file.size_bytes()) + " bytes",
                     .where = file.path(),
                     .hint = "copying or making the file again"});
  }
  const auto version = file.at<int32_t>(4);
  if (version != variant->version) {
    throw DataError({.what = "this version of the llm.c token file is not supported",
                     .expected = std::to_string(variant->version),
                     .found = std::to_string(version),
                     .where = file.path() + ", byte 4"});
  }
  return {variant->dtype, file.at<int32_t>(8)};
}

LlmcSource::LlmcSource(MappedFile file, Header header)
    : TokenSource(std::move(file), header.dtype, kHeaderBytes, header.num_tokens) {}

LlmcSource::LlmcSource(const std::string& path) : LlmcSource(MappedFile(path), read_header(MappedFile(path))) {}

}  // namespace trireme
