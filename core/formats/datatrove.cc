#include "core/formats/datatrove.h"

#include <charconv>
#include <optional>

namespace trireme {

namespace {

struct Metadata {
  int64_t token_bytes;
  std::optional<int64_t> num_tokens;
};

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return std::nullopt;
  if (end != text.data() + text.size() && *end != '\r' && *end != ' ') return std::nullopt;
  return value;
}

// The tokenizer's name may hold any character, so the width is what follows the last bar of line 1.
Metadata read_metadata(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size_bytes()));
  const size_t line_end = text.find('\n');
  const std::string_view first = text.substr(0, line_end);
  const size_t bar = first.rfind('|');
  const auto width = bar == std::string_view::npos ? std::nullopt : parse_number(first.substr(bar + 1));
  if (width != 2 && width != 4) {
    throw DataError({.what = "the metadata don't say how wide a token is",
                     .expected = "a first line \"tokenizer|2\" or \"tokenizer|4\"",
                     .found = "\"" + std::string(first.substr(0, 80)) + "\"",
                     .where = path});
  }
  if (line_end == std::string_view::npos) return {*width, std::nullopt};
  const std::string_view rest = text.substr(line_end + 1);
  return {*width, parse_number(rest.substr(0, rest.find('\n')))};
}

}  // namespace

DatatroveSource::Layout DatatroveSource::read_layout(const std::string& path) {
  MappedFile tokens(path);
  MappedFile index(path + ".index");
  if (index.size_bytes() % 8 != 0) {
    throw DataError({.what = "the index is truncated",
                     .expected = "a multiple of 8 bytes",
                     .found = std::to_string(index.size_bytes()) + " bytes",
                     .where = index.path()});
  }
  int64_t end = 0;
  for (int64_t d = 0; d < index.size_bytes() / 8; ++d) {
    const auto next = index.at<int64_t>(8 * d);
    if (next < end) {
      throw DataError({.what = "the document ends are not in order",
                       .expected = "at least " + std::to_string(end),
                       .found = std::to_string(index.at<uint64_t>(8 * d)),
                       .where = "document " + std::to_string(d) + " of " + index.path()});
    }
    end = next;
  }
  int64_t width = 0;
  if (file_exists(path + ".metadata")) {
    const Metadata metadata = read_metadata(path + ".metadata");
    width = metadata.token_bytes;
    if (metadata.num_tokens && *metadata.num_tokens != end) {
      throw DataError({.what = "the metadata and the index count different numbers of tokens",
                       .expected = std::to_string(*metadata.num_tokens) + " by " + path + ".metadata",
                       .found = std::to_string(end) + " as the last document's end",
                       .where = index.path()});
    }
  } else if (end > 0 && (tokens.size_bytes() / 2 == end || tokens.size_bytes() / 4 == end)) {
    width = tokens.size_bytes() / 2 == end ? 2 : 4;
  } else {
    throw DataError({.what = "the index and the token file disagree",
                     .expected = std::to_string(end) + " tokens of 2 or 4 bytes",
                     .found = std::to_string(tokens.size_bytes()) + " bytes",
                     .where = path});
  }
  return {std::move(tokens), std::move(index), width == 2 ? TokenDType::u16 : TokenDType::u32, end};
}

DatatroveSource::DatatroveSource(const std::string& path) : DatatroveSource(read_layout(path)) {}

DatatroveSource::DatatroveSource(Layout layout)
    : TokenSource(std::move(layout.tokens), layout.dtype, /*data_offset=*/0, layout.num_tokens),
      index_(std::move(layout.index)),
      num_documents_(index_.size_bytes() / 8) {}

}  // namespace trireme
