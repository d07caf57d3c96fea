// From a YAML file and --set overrides to a `Config`, and back.
//
// Strict: an unknown or repeated key, a wrong type, a value out of range, a missing required key or a value that
// isn't built yet is a ConfigError (exit code 2) that names file:line (or --set), the key, what was expected and
// found, and the nearest legal key or value. All functions are pure apart from reading files; thread-safe.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/config/config.h"

namespace trireme {

// Where each key that was given stands: "optimizer.lr" -> "runs/a.yaml:12" or "--set optimizer.lr".
using KeyPlaces = std::map<std::string, std::string>;
std::string place_of(const KeyPlaces& places, const std::string& key);  // "" where it wasn't given

// `sets` are the arguments of --set, "key=value" with a dotted key and a value in YAML's flow style; later ones win,
// and each beats the file. A number as part of the key is a position in a list (data.train.0.path).
// `model.config: PATH` is read relative to the working directory.
Config load_config(const std::string& path, const std::vector<std::string>& sets = {});

// The same from a text; `name` stands for the file in messages.
Config parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& sets = {});

// The model of a Hugging Face config.json, or of the one in a directory.
ModelConfig load_hf_model(const std::string& path);

// YAML with every key of every section; parse_config of it gives an equal Config.
std::string dump_config(const Config& config);

// Markdown: every key with its values, default and meaning.
std::string config_reference();

// Throws when the parts contradict each other (heads that don't divide, a micro-batch that doesn't divide, …).
void check_consistent(const Config& config, const KeyPlaces& places);

// What is allowed but may surprise, a sentence each; to be logged once.
std::vector<std::string> config_warnings(const Config& config);

// The one list of what can be written in a configuration but isn't built yet: throws for each of it.
void check_supported(const Config& config, const KeyPlaces& places);

}  // namespace trireme
