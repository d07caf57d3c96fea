// A configuration text as a tree of nodes that know where they were written: what YAML files, config.json files and
// --set arguments have in common before keys get a meaning.
#pragma once

#include <string>
#include <vector>

namespace trireme {

struct ConfigNode {
  enum class Kind { null, scalar, list, map };

  Kind kind = Kind::null;
  std::string key = {};                   // in its parent map
  std::string alias = {};                 // the key as written, when it was renamed to `key`
  std::string text = {};                  // of a scalar
  bool quoted = false;                    // a scalar in quotes is a string, never a number
  bool partial = false;                   // a map that adds to the one below it instead of replacing it (see overlay)
  std::string where = {};                 // "file:line" or "--set key"
  std::vector<ConfigNode> children = {};  // of a map or a list

  const ConfigNode* find(const std::string& name) const;  // the child of that key, or nullptr
  ConfigNode* find(const std::string& name);
  void remove(const std::string& name);
  const std::string& shown_key() const { return alias.empty() ? key : alias; }
  std::string describe() const;  // for messages: 'abc', null, a list, a map
};

// Throw ConfigError with file:line on malformed text, repeated keys, more than one document.
ConfigNode parse_yaml(const std::string& text, const std::string& name);

// A whole file's text; throws ConfigError when it can't be read.
std::string read_config_text(const std::string& path);

// JSON text as the same tree; throws ConfigError with file:line.
ConfigNode parse_json(const std::string& text, const std::string& name);

// "a.b.c=VALUE" as nested partial maps that end in VALUE.
ConfigNode parse_set(const std::string& argument);

// Puts `over` on `base`: a partial map goes key by key (positions for a list), anything else replaces.
void overlay(ConfigNode& base, const ConfigNode& over);

}  // namespace trireme
