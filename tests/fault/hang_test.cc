// A rank that is stopped in the middle of training, the one that writes what a run leaves: the others end the run, say which
// rank it is, and the same command goes on.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "checkpoint/directory.h"
#include "tests/fault/program.h"
#include "tests/fault/victim.h"
#include "tests/training.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::count_of;
using testing::read_file;
using testing::TempDir;
using testing::Victim;

bool is_rank(pid_t process, int rank) {
  const std::string environment = read_file("/proc/" + std::to_string(process) + "/environ");
  return environment.find("OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + '\0') != std::string::npos;
}

class Hang : public ::testing::Test {
 protected:
  std::vector<std::string> command(int64_t steps, const std::string& timeout) const {
    std::vector<std::string> words{"train", dir_ / "config.yaml"};
    for (const std::string& text : {"run.hang_timeout=" + timeout, "run.steps=" + std::to_string(steps),
                                    std::string("checkpoint.every=5"), std::string("batch.global=6")}) {
      words.insert(words.end(), {"--set", text});
    }
    return words;
  }
  std::string run_dir() const { return dir_ / "run"; }
  std::string log() const { return dir_ / "log"; }
  TempDir dir_;
};

TEST_F(Hang, TheStoppedRankIsNamed) {
  constexpr int kRanks = 3;
  constexpr int kStopped = 0;
  testing::write_corpus(dir_ / "corpus", 6000);
  fs::create_directory(dir_ / "scratch");
  testing::write_file(dir_ / "config.yaml", testing::tiny_yaml(dir_, /*steps=*/1));
  // What an earlier run left says nothing about this one.
  fs::create_directories(run_dir() + "/crash/hang");
  {
    Victim victim(command(1000000, "6s"), kRanks, dir_ / "scratch", log());
    while (victim.alive() && !latest_checkpoint(run_dir())) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (const pid_t process : victim.ranks()) {
      if (is_rank(process, kStopped)) ::kill(process, SIGSTOP);
    }
    EXPECT_EQ(victim.end(), 6) << read_file(log());
  }
  const std::string said = read_file(log());
  EXPECT_EQ(count_of(said, "error: "), 1) << said;
  EXPECT_EQ(count_of(said, "error: the run stands still in step "), 1) << said;
  EXPECT_EQ(count_of(said, "found rank " + std::to_string(kStopped) + " no longer responding"), 1) << said;
  const auto status = nlohmann::json::parse(read_file(run_dir() + "/status.json"));
  EXPECT_EQ(status.at("state"), "failed");
  EXPECT_EQ(status.at("exit_code"), 6);
  EXPECT_GE(status.at("step").get<int64_t>(), 5);
  int reports = 0;
  for (const auto& entry : fs::directory_iterator(run_dir() + "/crash")) {
    if (!entry.is_regular_file()) continue;
    ++reports;
    const std::string text = read_file(entry.path());
    EXPECT_EQ(count_of(text, "error: the run stands still"), 1) << text;
    EXPECT_GE(count_of(text, "UNFINISHED"), 1) << text;
  }
  EXPECT_EQ(reports, 1);

  const int64_t reached = CheckpointReader(*latest_checkpoint(run_dir())).manifest().step;
  Victim again(command(reached + 2, "30min"), kRanks, dir_ / "scratch", log());
  EXPECT_EQ(again.end(), 0) << read_file(log());
  EXPECT_FALSE(fs::exists(run_dir() + "/crash/hang"));
}

}  // namespace
}  // namespace trireme
