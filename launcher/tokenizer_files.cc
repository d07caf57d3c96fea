#include "launcher/tokenizer_files.h"

#include <filesystem>

#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

constexpr const char* kTokenizers[] = {"tokenizer.json", "tokenizer.model"};
constexpr const char* kBeside[] = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja"};

}  // namespace

std::vector<std::string> copy_tokenizer(const std::string& spec, OutputDirectory& out) {
  std::vector<std::string> copied;
  if (spec == "bytes") return copied;
  const auto copy = [&](const fs::path& from, const std::string& name) {
    std::error_code error;
    if (!fs::is_regular_file(from, error) || fs::file_size(from, error) == 0) return;
    const MappedFile file(from.string());
    const auto bytes = file.bytes(0, file.size_bytes());
    out.write_text(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    copied.push_back(name);
  };
  std::error_code error;
  const fs::path place = spec;
  const bool directory = fs::is_directory(place, error);
  const fs::path folder = directory ? place : place.parent_path();
  // A file with a name of its own has nothing to do with others that lie there.
  const std::string own = place.extension() == ".json" ? "tokenizer.json" : "tokenizer.model";
  if (!directory && place.filename() != own) {
    copy(place, own);
    return copied;
  }
  for (const char* name : kTokenizers) copy(folder / name, name);
  if (copied.empty()) return copied;
  for (const char* name : kBeside) copy(folder / name, name);
  return copied;
}

std::optional<int64_t> end_of_document(const std::string& spec) {
  try {
    return make_tokenizer(spec)->end_of_document();
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace trireme
