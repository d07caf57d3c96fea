#include "core/data/bpe/tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/data/utf8.h"
#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace trireme::bpe {

namespace {

using nlohmann::json;

constexpr const char* kByteLevelPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 80 ? repair_utf8(text.substr(0, 80)) + "…" : text;
}

// A value of the file and its place, "FILE: pre_tokenizer.pretokenizers[0]".
class Node {
 public:
  Node(const json& value, std::string where) : value_(value), where_(std::move(where)) {}

  const json& value() const { return value_; }
  const std::string& where() const { return where_; }

  [[noreturn]] void broken(const std::string& expected) const {
    throw DataError({.what = "the tokenizer can't be read",
                     .expected = expected,
                     .found = shown(value_),
                     .where = where_,
                     .hint = "copying the file again"});
  }
  [[noreturn]] void not_built(const std::string& expected) const {
    throw ConfigError({.what = "the tokenizer asks for what isn't built",
                       .expected = expected,
                       .found = shown(value_),
                       .where = where_});
  }

  // Refuses fields that none of `names` names.
  void only(std::initializer_list<const char*> names) const {
    if (!value_.is_object()) broken("an object");
    for (const auto& [key, unused] : value_.items()) {
      if (std::find(names.begin(), names.end(), key) == names.end()) at(key).not_built("no such field");
    }
  }
  bool has(const std::string& key) const {
    return value_.is_object() && value_.contains(key) && !value_.at(key).is_null();
  }
  Node at(const std::string& key) const {
    if (!value_.is_object() || !value_.contains(key)) broken("a field \"" + key + "\"");
    return {value_.at(key), where_ + (where_.ends_with(": ") ? "" : ".") + key};
  }
  std::vector<Node> items() const {
    if (!value_.is_array()) broken("a list");
    std::vector<Node> nodes;
    for (size_t i = 0; i < value_.size(); ++i) nodes.emplace_back(value_[i], where_ + "[" + std::to_string(i) + "]");
    return nodes;
  }
  const std::string& text() const {
    if (!value_.is_string()) broken("a string");
    return value_.get_ref<const std::string&>();
  }
  bool flag(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const Node node = at(key);
    if (!node.value_.is_boolean()) node.broken("true or false");
    return node.value_.get<bool>();
  }
  int32_t id() const {
    if (!value_.is_number_integer() || value_.get<int64_t>() < 0 ||
        value_.get<int64_t>() >= std::numeric_limits<int32_t>::max()) {
      broken("an id from 0 to 2^31 - 2");
    }
    return value_.get<int32_t>();
  }
  std::string type() const { return at("type").text(); }

 private:
  const json& value_;
  std::string where_;
};

json parse_file(const std::string& path) {
  const MappedFile file(path);
  const char* begin = reinterpret_cast<const char*>(file.data());
  json value = json::parse(begin, begin + file.size_bytes(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded() || !value.is_object()) {
    throw DataError({.what = "the tokenizer can't be read",
                     .expected = "one JSON object",
                     .found = "broken JSON",
                     .where = path,
                     .hint = "copying the file again"});
  }
  return value;
}

// "a b", or ["a", "b"] in newer files.
std::pair<std::string, std::string> read_merge(const Node& node) {
  if (node.value().is_array()) {
    const std::vector<Node> pair = node.items();
    if (pair.size() != 2) node.broken("two symbols");
    return {pair[0].text(), pair[1].text()};
  }
  const std::string& text = node.text();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    node.broken("two symbols with a space between them");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_model(const Node& model, TokenizerJson& out) {
  if (model.has("type") && model.type() != "BPE") model.at("type").not_built("BPE");
  model.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
              "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (model.has("dropout") && model.value().at("dropout") != 0) model.at("dropout").not_built("null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(key) && !model.at(key).text().empty()) model.at(key).not_built("null or \"\"");
  }
  // unk_token, fuse_unk and byte_fallback are for bytes that the vocabulary lacks; it must have all (merger.h).
  out.ignore_merges = model.flag("ignore_merges", false);
  const Node vocab = model.at("vocab");
  if (!vocab.value().is_object()) vocab.broken("an object");
  out.vocab.reserve(vocab.value().size());
  for (const auto& [symbols, id] : vocab.value().items()) {
    out.vocab.emplace_back(symbols, Node(id, vocab.where() + "[\"" + symbols + "\"]").id());
  }
  const Node merges = model.at("merges");
  if (!merges.value().is_array()) merges.broken("a list");
  out.merges.reserve(merges.value().size());
  for (size_t i = 0; i < merges.value().size(); ++i) {
    const json& merge = merges.value()[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    out.merges.push_back(read_merge(Node(merge, merges.where() + "[" + std::to_string(i) + "]")));
  }
}

void read_normalizer(const Node& node, TokenizerJson& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    node.only({"type", "normalizers"});
    for (const Node& item : node.at("normalizers").items()) read_normalizer(item, out);
  } else if (type == "NFC") {
    node.only({"type"});
    out.nfc = true;
  } else {
    node.at("type").not_built("NFC, or a Sequence of it");
  }
}

void read_split(const Node& node, TokenizerJson& out) {
  node.only({"type", "pattern", "behavior", "invert"});
  const Node pattern = node.at("pattern");
  if (!pattern.has("Regex")) pattern.not_built("{\"Regex\": …}");
  pattern.only({"Regex"});
  const Node behavior = node.at("behavior");
  const bool removed = behavior.text() == "Removed";
  if (!removed && behavior.text() != "Isolated") behavior.not_built("Isolated or Removed");
  const bool invert = node.flag("invert", false);
  out.stages.push_back({.pattern = pattern.at("Regex").text(),
                        .keep_matches = !removed || invert,
                        .keep_gaps = !removed || !invert,
                        .where = pattern.where()});
}

// Sets `done` at ByteLevel, after which nothing may follow.
void read_pre_tokenizer(const Node& node, TokenizerJson& out, bool& done) {
  const std::string type = node.type();
  if (done) node.not_built("ByteLevel as the last");
  if (type == "Sequence") {
    node.only({"type", "pretokenizers"});
    for (const Node& item : node.at("pretokenizers").items()) read_pre_tokenizer(item, out, done);
  } else if (type == "Split") {
    read_split(node, out);
  } else if (type == "ByteLevel") {
    node.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    const bool space = node.flag("add_prefix_space", true);
    if (node.flag("use_regex", true)) {
      out.stages.push_back({.pattern = kByteLevelPattern, .prefix_space = space, .where = node.where()});
    } else {
      out.prefix_space = space;
    }
    done = true;
  } else {
    node.at("type").not_built("Split, ByteLevel, or a Sequence of them");
  }
}

void read_decoder(const Node& node) {
  if (!node.value().is_object()) node.not_built("ByteLevel");
  if (node.type() == "Sequence") {
    const std::vector<Node> items = node.at("decoders").items();
    if (items.size() != 1) node.not_built("ByteLevel");
    return read_decoder(items[0]);
  }
  if (node.type() != "ByteLevel") node.at("type").not_built("ByteLevel");
}

AddedToken read_added_token(const Node& node) {
  node.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token;
  token.id = node.at("id").id();
  token.content = node.at("content").text();
  if (token.content.empty()) node.at("content").broken("a text");
  token.single_word = node.flag("single_word", false);
  token.lstrip = node.flag("lstrip", false);
  token.rstrip = node.flag("rstrip", false);
  token.special = node.flag("special", false);
  token.normalized = node.flag("normalized", !token.special);
  return token;
}

}  // namespace

TokenizerJson read_tokenizer_json(const std::string& path) {
  const json file = parse_file(path);
  const Node root(file, path + ": ");
  root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
             "decoder", "model"});
  TokenizerJson out;
  out.path = path;
  for (const char* key : {"truncation", "padding"}) {
    if (root.has(key)) root.at(key).not_built("null");
  }
  read_model(root.at("model"), out);
  if (root.has("normalizer")) read_normalizer(root.at("normalizer"), out);
  bool byte_level = false;
  if (root.has("pre_tokenizer")) read_pre_tokenizer(root.at("pre_tokenizer"), out, byte_level);
  if (!byte_level) root.at("pre_tokenizer").not_built("ByteLevel, at the end of a Sequence or alone");
  read_decoder(root.at("decoder"));
  if (root.has("added_tokens")) {
    for (const Node& node : root.at("added_tokens").items()) out.added_tokens.push_back(read_added_token(node));
  }
  return out;
}

}  // namespace trireme::bpe
