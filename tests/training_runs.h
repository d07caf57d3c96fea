// A frame for tests of whole training runs: a corpus, and runs in directories of their own.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/training.h"

namespace trireme::testing {

class TrainingRuns : public ::testing::Test {
 protected:
  void SetUp() override { write_corpus(dir_ / "corpus", 20000); }

  // Trains and returns the hashes of the final checkpoint; the run directory is `name`.
  StateHashes run(const std::string& name, int64_t steps, int ranks, std::vector<std::string> sets) {
    sets.push_back("run.dir=" + (dir_ / name));
    train(parse_config(tiny_yaml(dir_, steps), "test", sets), ranks);
    return state_hashes(*latest_checkpoint(dir_ / name));
  }

  std::vector<nlohmann::json> metrics(const std::string& name) {
    std::vector<nlohmann::json> rows;
    std::istringstream lines(read_file(dir_ / name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
    return rows;
  }

  TempDir dir_;
};

}  // namespace trireme::testing
