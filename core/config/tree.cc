#include "core/config/tree.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"

namespace trireme {

namespace {

using Kind = ConfigNode::Kind;

constexpr int kMaxDepth = 32;

// Turns yaml-cpp's nodes into ours. Every node of one text shares `name`; --set passes its own `where`.
class YamlReader {
 public:
  YamlReader(std::string name, bool with_lines) : name_(std::move(name)), with_lines_(with_lines) {}

  std::string place(const YAML::Mark& mark) const {
    return with_lines_ && !mark.is_null() ? name_ + ":" + std::to_string(mark.line + 1) : name_;
  }

  ConfigNode convert(const YAML::Node& node, int depth) const {
    ConfigNode out;
    out.where = place(node.Mark());
    if (depth > kMaxDepth) throw ConfigError({.what = "the configuration is nested too deeply", .where = out.where});
    if (node.IsScalar()) {
      out.kind = Kind::scalar;
      out.text = node.Scalar();
      out.quoted = node.Tag() == "!";
    } else if (node.IsSequence()) {
      out.kind = Kind::list;
      for (const YAML::Node& item : node) out.children.push_back(convert(item, depth + 1));
    } else if (node.IsMap()) {
      out.kind = Kind::map;
      for (const auto& entry : node) add_entry(out, entry.first, entry.second, depth);
    }
    return out;
  }

 private:
  void add_entry(ConfigNode& map, const YAML::Node& key, const YAML::Node& value, int depth) const {
    const std::string where = place(key.Mark());
    if (!key.IsScalar()) throw ConfigError({.what = "a key is not a plain word", .where = where});
    if (const ConfigNode* first = map.find(key.Scalar())) {
      throw ConfigError({.what = "key '" + key.Scalar() + "' stands twice",
                         .where = where,
                         .hint = "keeping only one of it and the one at " + first->where});
    }
    ConfigNode child = convert(value, depth + 1);
    child.key = key.Scalar();
    child.where = where;  // the key's line: what a reader looks for
    map.children.push_back(std::move(child));
  }

  std::string name_;
  bool with_lines_;
};

ConfigNode parse_yaml_text(const std::string& text, const YamlReader& reader) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      throw ConfigError({.what = "the configuration has several YAML documents",
                         .expected = "one",
                         .found = std::to_string(documents.size()),
                         .where = reader.place(documents[1].Mark())});
    }
    if (documents.empty()) return ConfigNode{.where = reader.place(YAML::Mark::null_mark())};
    return reader.convert(documents[0], 0);
  } catch (const YAML::Exception& error) {
    throw ConfigError({.what = "the YAML can't be read: " + error.msg, .where = reader.place(error.mark)});
  }
}

// JSON has no line numbers after parsing: keys are looked up in the text, each after the one before it.
class JsonReader {
 public:
  JsonReader(const std::string& text, const std::string& name) : text_(text), name_(name) {}

  std::string place(size_t offset) const {
    const auto end = text_.begin() + static_cast<std::ptrdiff_t>(std::min(offset, text_.size()));
    return name_ + ":" + std::to_string(1 + std::count(text_.begin(), end, '\n'));
  }

  ConfigNode convert(const nlohmann::ordered_json& value) {
    ConfigNode out;
    out.where = place(offset_);
    if (value.is_object()) {
      out.kind = Kind::map;
      for (const auto& [key, item] : value.items()) {
        const size_t found = text_.find('"' + key + '"', offset_);
        if (found != std::string::npos) offset_ = found;
        const std::string where = place(offset_);
        ConfigNode child = convert(item);
        child.key = key;
        child.where = where;
        out.children.push_back(std::move(child));
      }
    } else if (value.is_array()) {
      out.kind = Kind::list;
      for (const auto& item : value) out.children.push_back(convert(item));
    } else if (!value.is_null()) {
      out.kind = Kind::scalar;
      out.quoted = value.is_string();
      out.text = value.is_string() ? value.get<std::string>() : value.dump();
    }
    return out;
  }

 private:
  const std::string& text_;
  const std::string& name_;
  size_t offset_ = 0;
};

}  // namespace

const ConfigNode* ConfigNode::find(const std::string& name) const {
  if (kind != Kind::map) return nullptr;
  for (const ConfigNode& child : children) {
    if (child.key == name) return &child;
  }
  return nullptr;
}

ConfigNode* ConfigNode::find(const std::string& name) {
  return const_cast<ConfigNode*>(static_cast<const ConfigNode*>(this)->find(name));
}

void ConfigNode::remove(const std::string& name) {
  std::erase_if(children, [&](const ConfigNode& child) { return child.key == name; });
}

std::string ConfigNode::describe() const {
  switch (kind) {
    case Kind::null: return "null";
    case Kind::scalar: return quoted ? "the string \"" + text + "\"" : "'" + text + "'";
    case Kind::list: return "a list";
    case Kind::map: return "a map";
  }
  return "";
}

ConfigNode parse_yaml(const std::string& text, const std::string& name) {
  return parse_yaml_text(text, YamlReader(name, /*with_lines=*/true));
}

std::string read_config_text(const std::string& path) {
  std::error_code ignored;
  std::ifstream file;
  if (!std::filesystem::is_directory(path, ignored)) file.open(path, std::ios::binary);
  std::stringstream text;
  if (file.is_open() && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (!file.is_open() || file.bad() || text.fail()) {
    throw ConfigError({.what = "the configuration file can't be read", .expected = "a readable file", .where = path});
  }
  return text.str();
}

ConfigNode parse_json(const std::string& text, const std::string& name) {
  JsonReader reader(text, name);
  try {
    return reader.convert(nlohmann::ordered_json::parse(text));
  } catch (const nlohmann::ordered_json::parse_error& error) {
    throw ConfigError({.what = "the file is not valid JSON", .where = reader.place(error.byte)});
  }
}

ConfigNode parse_set(const std::string& argument) {
  const size_t equals = argument.find('=');
  const std::string key = argument.substr(0, equals);
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.' ||
      key.find("..") != std::string::npos) {
    throw ConfigError({.what = "--set can't be read",
                       .expected = "key=value with a dotted key",
                       .found = "'" + argument + "'",
                       .hint = "--set optimizer.lr=1e-3"});
  }
  const std::string where = "--set " + key;
  ConfigNode node = parse_yaml_text(argument.substr(equals + 1), YamlReader(where, /*with_lines=*/false));
  std::string rest = key;
  while (!rest.empty()) {
    const size_t dot = rest.rfind('.');
    node.key = dot == std::string::npos ? rest : rest.substr(dot + 1);
    rest = dot == std::string::npos ? "" : rest.substr(0, dot);
    ConfigNode parent{.kind = Kind::map, .partial = true, .where = where};
    parent.children.push_back(std::move(node));
    node = std::move(parent);
  }
  return node;
}

void overlay(ConfigNode& base, const ConfigNode& over) {
  const bool by_key = over.partial && base.kind == Kind::map;
  const bool by_position = over.partial && base.kind == Kind::list;
  if (!by_key && !by_position) {
    std::string key = base.key;
    base = over;
    if (!key.empty()) base.key = std::move(key);
    return;
  }
  for (const ConfigNode& child : over.children) {
    if (by_key) {
      if (ConfigNode* below = base.find(child.key)) {
        overlay(*below, child);
      } else {
        base.children.push_back(child);
      }
      continue;
    }
    const bool digits = !child.key.empty() && child.key.size() < 9 &&
                        std::all_of(child.key.begin(), child.key.end(), [](char c) { return c >= '0' && c <= '9'; });
    const size_t position = digits ? std::stoul(child.key) : base.children.size();
    if (position >= base.children.size()) {
      throw ConfigError({.what = "no such entry in the list",
                         .expected = "a position from 0 to " + std::to_string(base.children.size()) + " (exclusive)",
                         .found = "'" + child.key + "'",
                         .where = child.where});
    }
    overlay(base.children[position], child);
    base.children[position].key.clear();
  }
}

}  // namespace trireme
