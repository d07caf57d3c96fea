// `launch` starts ranks again that were killed; they go on from what they have saved, also where the configuration says
// that the run begins anew.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "checkpoint/directory.h"
#include "tests/fault/program.h"
#include "tests/fault/victim.h"
#include "tests/training.h"

namespace trireme {
namespace {

using testing::count_of;
using testing::read_file;

TEST(Restart, ContinuesWhatTheLaunchBegan) {
  const testing::TempDir dir;
  testing::write_corpus(dir / "corpus", 6000);
  testing::write_file(dir / "config.yaml", testing::tiny_yaml(dir, 10'000'000));
  const std::string run = dir / "run";
  testing::Victim launch({"launch", "--nproc", "1", "--max-restarts", "1", "train", dir / "config.yaml", "--set",
                          "checkpoint={every: 2, keep_last: 2, resume: never}"},
                         1, dir.path(), dir / "log");
  const auto wait_until = [&](const std::function<bool()>& happened) {
    while (!happened() && launch.alive()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(happened()) << read_file(dir / "log");
  };
  wait_until([&] { return latest_checkpoint(run).has_value(); });
  ASSERT_EQ(::kill(nlohmann::json::parse(read_file(run + "/status.json"))["pid"].get<pid_t>(), SIGKILL), 0);
  wait_until([&] { return read_file(dir / "log").find("continuing from") != std::string::npos; });
  launch.signal(SIGTERM);
  EXPECT_EQ(launch.end(), 0) << read_file(dir / "log");
  const std::string log = read_file(dir / "log");
  EXPECT_EQ(count_of(log, "restart 1 of 1"), 1) << log;
  EXPECT_EQ(count_of(log, "continuing from " + checkpoints_directory(run)), 1) << log;
}

}  // namespace
}  // namespace trireme
