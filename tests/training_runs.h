// A frame for tests of whole training runs: a corpus, and runs in directories of their own that share what a GPU's library
// chose, so that their bits may be compared.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/metrics/run_directory.h"
#include "tests/training.h"

namespace trireme::testing {

class TrainingRuns : public ::testing::Test {
 protected:
  void SetUp() override { write_corpus(dir_ / "corpus", 20000); }

  // Trains and returns the hashes of the final checkpoint; the run directory is `name`.
  std::map<std::string, std::vector<std::string>> run(const std::string& name, int64_t steps, int ranks,
                                                      std::vector<std::string> sets) {
    sets.push_back("run.dir=" + (dir_ / name));
    const std::filesystem::path choices = RunDirectory(dir_ / name).gemm_algorithms_file();
    if (!gemm_choices_.empty() && !std::filesystem::exists(choices)) {
      std::filesystem::create_directories(choices.parent_path());
      write_file(choices.string(), gemm_choices_);
    }
    train(parse_config(tiny_yaml(dir_, steps), "test", sets), ranks);
    if (std::filesystem::exists(choices)) gemm_choices_ = read_file(choices.string());
    return state_hashes(*latest_checkpoint(dir_ / name));
  }

  std::vector<nlohmann::json> metrics(const std::string& name) {
    std::vector<nlohmann::json> rows;
    std::istringstream lines(read_file(dir_ / name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
    return rows;
  }

  TempDir dir_;

 private:
  // What a GPU's library chose by timing in the runs so far: the next ones take it over, and with it their bits.
  std::string gemm_choices_;
};

}  // namespace trireme::testing
