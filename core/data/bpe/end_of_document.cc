#include "core/data/bpe/end_of_document.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace trireme::bpe {

std::optional<int32_t> find_end_of_document(const TokenizerJson& json,
                                            const std::function<std::optional<int32_t>(const std::string&)>& id_of) {
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>"}) {
    for (const AddedToken& token : json.added_tokens) {
      if (token.content == name) return token.id;
    }
  }
  const std::string path = (std::filesystem::path(json.path).parent_path() / "tokenizer_config.json").string();
  if (!file_exists(path)) return std::nullopt;
  const MappedFile file(path);
  const char* begin = reinterpret_cast<const char*>(file.data());
  const auto config = nlohmann::json::parse(begin, begin + file.size_bytes(), nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded() || !config.is_object()) {
    throw DataError(
        {.what = "the tokenizer's configuration can't be read", .expected = "a JSON object", .where = path});
  }
  auto token = config.find("eos_token");
  if (token == config.end() || token->is_null()) return std::nullopt;
  // A string, or an object that describes the token.
  const nlohmann::json content = token->is_object() ? token->value("content", nlohmann::json()) : *token;
  const auto id = content.is_string() ? id_of(content.get<std::string>()) : std::nullopt;
  if (!id) {
    throw DataError({.what = "eos_token names no token of the tokenizer",
                     .expected = "one of " + json.path,
                     .found = token->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                     .where = path});
  }
  return id;
}

}  // namespace trireme::bpe
