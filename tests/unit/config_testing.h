// What the tests of model sections share: a config.json of their own, and a run that names it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/load.h"
#include "tests/unit/data_testing.h"

namespace trireme::testing {

// Of the ConfigError that `body` throws.
inline std::string message(const std::function<void()>& body) { return message_of<ConfigError>(body); }

// A config.json with `"key": value` lines in front of its closing brace.
inline std::string with(const std::string& json, const std::string& more) {
  return json.substr(0, json.rfind('}')) + ",\n" + more + "}";
}

inline std::string replaced(std::string json, const std::string& from, const std::string& to) {
  const size_t at = json.find(from);
  if (at == std::string::npos) {
    ADD_FAILURE() << "'" << from << "' is not in: " << json;
    return json;
  }
  return json.replace(at, from.size(), to);
}

class ConfigJson : public ::testing::Test {
 protected:
  // The directory of a config.json with this text.
  const std::string& write(const std::string& json) {
    write_file(dir_ / "config.json", json);
    return dir_.path();
  }
  ModelConfig read(const std::string& json) { return load_hf_model(write(json)); }

  // A run whose model is that config.json with `keys` of YAML beside it.
  Config run(const std::string& json, const std::string& keys = "", const std::vector<std::string>& sets = {}) {
    return parse_config("run: {dir: r, steps: 1}\nmodel: {config: " + write(json) + (keys.empty() ? "" : ", " + keys) +
                            "}\ndata: {train: [{path: d}], sequence_length: 16}\nbatch: {global: 1, micro: 1}\n",
                        "r.yaml", sets);
  }

  TempDir dir_;
};

}  // namespace trireme::testing
