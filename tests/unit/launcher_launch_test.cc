// Starting, watching and restarting a command. Shell scripts stand in for mpirun.
#include "launcher/launch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/error.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

TEST(MpirunCommand, OneMachine) {
  LaunchArgs args;
  args.nproc = 3;
  args.command = {"train", "a.yaml"};
  EXPECT_EQ(mpirun_command(args, "/bin/trireme", /*as_root=*/true, /*num_gpus=*/8),
            (Words{"mpirun", "--quiet", "--bind-to", "none", "--allow-run-as-root", "--oversubscribe", "-np", "3",
                   "/bin/trireme", "train", "a.yaml"}));
  args.nproc.reset();
  EXPECT_EQ(mpirun_command(args, "t", false, 8),
            (Words{"mpirun", "--quiet", "--bind-to", "none", "--oversubscribe", "-np", "8", "t", "train", "a.yaml"}));
  EXPECT_EQ(mpirun_command(args, "t", false, 0)[6], "1");
}

TEST(MpirunCommand, ManyMachines) {
  LaunchArgs args;
  args.hosts = "hosts.txt";
  args.command = {"train"};
  EXPECT_EQ(mpirun_command(args, "t", false, 8), (Words{"mpirun", "--quiet", "--bind-to", "none", "--hostfile",
                                                        "hosts.txt", "-x", "TRIREME_LAUNCH", "t", "train"}));
  args.nproc = 16;
  EXPECT_EQ(mpirun_command(args, "t", false, 8),
            (Words{"mpirun", "--quiet", "--bind-to", "none", "--hostfile", "hosts.txt", "-x", "TRIREME_LAUNCH", "-np",
                   "16", "t", "train"}));
}

class Supervise : public ::testing::Test {
 protected:
  Supervise() : dir_(fs::path(::testing::TempDir()) / ("supervise-" + std::to_string(::getpid()))) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  ~Supervise() override { fs::remove_all(dir_); }

  int run(const std::string& script, int max_restarts = 0) {
    return supervise({"/bin/sh", "-c", "cd " + dir_.string() + "; echo x >> starts; " + script}, max_restarts, SIGUSR1,
                     [&](std::string_view text) { said_.emplace_back(text); });
  }
  int64_t starts() const {
    std::ifstream file(dir_ / "starts");
    return std::count(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>(), 'x');
  }
  // Sends `number` to this process once the command has made the file.
  std::thread signal_when(const std::string& file, int number) {
    return std::thread([path = dir_ / file, number, self = pthread_self()] {
      while (!fs::exists(path)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      pthread_kill(self, number);
    });
  }

  fs::path dir_;
  Words said_;
};

TEST_F(Supervise, PassesTheExitCodeOn) {
  for (const int code : {0, 1, 2, 5, 6}) EXPECT_EQ(run("exit " + std::to_string(code)), code);
  EXPECT_EQ(run("kill -9 $$"), 128 + 9);
  EXPECT_EQ(said_, Words{"the ranks ended with signal 9 (Killed)"});
}

TEST_F(Supervise, RestartsAfterACrash) {
  EXPECT_EQ(run("test $(wc -l < starts) -ge 3 || kill -9 $$", 5), 0);
  EXPECT_EQ(starts(), 3);
  EXPECT_EQ(said_, (Words{"the ranks ended with signal 9 (Killed); restart 1 of 5",
                          "the ranks ended with signal 9 (Killed); restart 2 of 5"}));
}

TEST_F(Supervise, GivesUpAfterSoManyRestarts) {
  EXPECT_EQ(run("exit 6", 2), 6);
  EXPECT_EQ(starts(), 3);
}

TEST_F(Supervise, DoesNotRepeatWhatWouldFailAgain) {
  EXPECT_EQ(run("exit 2", 4), 2);
  EXPECT_EQ(run("exit 3", 4), 3);
  EXPECT_EQ(starts(), 2);
}

TEST_F(Supervise, AsksToStopOnceThenEnds) {
  // The script ends well when asked by SIGUSR1.
  for (const int number : {SIGTERM, SIGUSR1}) {
    std::thread sender = signal_when("ready", number);
    EXPECT_EQ(run("trap 'rm ready; exit 0' USR1; touch ready; while :; do sleep 0.01; done", 3), 0);
    sender.join();
  }
  EXPECT_EQ(starts(), 2);
  // It ignores the first request; the second ends it, and there is no restart.
  std::thread first = signal_when("two", SIGINT);
  std::thread second = signal_when("asked", SIGINT);
  EXPECT_EQ(run("trap 'sleep 1.1; touch asked' USR1; touch two; while :; do sleep 0.01; done", 3), 128 + SIGTERM);
  first.join();
  second.join();
  EXPECT_EQ(starts(), 3);
}

TEST_F(Supervise, TakesSignalsInQuickSuccessionForOneRequest) {
  std::thread first = signal_when("ready", SIGTERM);
  std::thread second = signal_when("asked", SIGTERM);
  EXPECT_EQ(run("trap 'touch asked; sleep 0.5; exit 0' USR1; touch ready; while :; do sleep 0.01; done", 3), 0);
  first.join();
  second.join();
}

TEST_F(Supervise, SeesTheEndWhereTheParentIgnoresChildren) {
  const auto former = std::signal(SIGCHLD, SIG_IGN);
  EXPECT_EQ(run("exit 5"), 5);
  EXPECT_EQ(std::signal(SIGCHLD, former), SIG_IGN);
}

TEST_F(Supervise, ACommandThatCannotStart) {
  try {
    supervise({"/no/such/program"}, 3, SIGUSR1, [](std::string_view) {});
    FAIL();
  } catch (const MachineError& error) {
    EXPECT_STREQ(error.what(), "can't start /no/such/program: No such file or directory");
  }
}

}  // namespace
}  // namespace trireme
