// kill -9 of a random rank, or of all at once, at random moments, most of them inside a save. The same command then finds
// a valid checkpoint no older than the newest that was seen finished, continues from it, and ends with the bits of a run
// that was never killed.
//
// TRIREME_KILL_SEED: other moments. TRIREME_KILL_COUNT: kills in all (12; 200 with TRIREME_TEST_ALL=1).
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "checkpoint/directory.h"
#include "checkpoint/reader.h"
#include "tests/fault/program.h"
#include "tests/fault/victim.h"
#include "tests/training.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::count_of;
using testing::read_file;
using testing::state_hashes;
using testing::TempDir;
using testing::Victim;
using Clock = std::chrono::steady_clock;

constexpr int64_t kSteps = 24;
constexpr int kNumLayouts = 4;

int64_t number_from(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::atoll(text) : otherwise;
}

int kills_in_all() {
  const int64_t usual = number_from("TRIREME_TEST_ALL", 0) != 0 ? 200 : 12;
  return static_cast<int>(number_from("TRIREME_KILL_COUNT", usual));
}

struct Layout {
  const char* name;
  int ranks;
  std::vector<std::string> sets;
};

const Layout kLayouts[kNumLayouts] = {
    {"one_rank_that_waits", 1, {"checkpoint.async=false"}},
    {"data2_zero1", 2, {"parallel.zero=1", "checkpoint.every=2"}},
    {"data3_zero3", 3, {"parallel.zero=3", "batch.global=6", "batch.micro=1"}},
    {"tensor2_pipeline2",
     4,
     {"parallel.tensor=2", "parallel.pipeline=2", "model.num_attention_heads=2", "model.num_key_value_heads=2"}},
};

// What stands in the directory of checkpoints.
struct Listing {
  using Save = std::pair<int64_t, uint64_t>;  // step and inode of its directory, which keeps it through its renames
  int64_t newest = 0;                         // step of the newest that looks finished
  std::set<Save> all;
  std::set<Save> unfinished;  // being written, being deleted, or left behind
};

Listing list(const std::string& run_dir) {
  Listing listing;
  std::error_code error;
  fs::directory_iterator at(checkpoints_directory(run_dir), error);
  for (const fs::directory_iterator end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    struct stat status {};
    if (!name.starts_with("step-") || ::stat(at->path().c_str(), &status) != 0) continue;
    const Listing::Save save{std::atoll(name.c_str() + 5), status.st_ino};
    listing.all.insert(save);
    if (name.ends_with(".tmp")) {
      listing.unfinished.insert(save);
    } else {
      listing.newest = std::max(listing.newest, save.first);
    }
  }
  return listing;
}

// Step and loss of each row, as text, so that every bit counts.
std::vector<std::string> losses(const std::string& run_dir) {
  std::vector<std::string> rows;
  std::istringstream lines(read_file(run_dir + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    rows.push_back(row.at("step").dump() + ": " + row.at("loss").dump());
  }
  return rows;
}

class Kill : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    seed_ = number_from("TRIREME_KILL_SEED", 1);
    random_.seed(static_cast<uint64_t>(seed_ * kNumLayouts + GetParam()));
    testing::write_corpus(dir_ / "corpus", 6000);
    fs::create_directory(dir_ / "scratch");
    testing::write_file(dir_ / "config.yaml", testing::tiny_yaml(dir_, kSteps));
  }

  const Layout& layout() const { return kLayouts[GetParam()]; }
  std::string run_dir(int number) const { return dir_ / ("run" + std::to_string(number)); }
  std::string log() const { return dir_ / "log"; }
  double uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  int below(size_t n) { return static_cast<int>(std::uniform_int_distribution<size_t>(0, n - 1)(random_)); }

  std::unique_ptr<Victim> start(int number) {
    std::vector<std::string> command{"train", dir_ / "config.yaml"};
    const auto set = [&](const std::string& text) { command.insert(command.end(), {"--set", text}); };
    for (const char* text : {"checkpoint.every=1", "checkpoint.keep_last=2"}) set(text);
    for (const std::string& text : layout().sets) set(text);
    set("run.dir=" + run_dir(number));
    return std::make_unique<Victim>(command, layout().ranks, dir_ / "scratch", log());
  }

  // Kills at a random moment of a random save. False when the run ended before.
  bool kill_inside_a_save(Victim& victim, const std::string& run);
  // Kills `delay` after the start.
  bool kill_at(Victim& victim, const std::string& run, std::chrono::microseconds delay);
  bool kill(Victim& victim, const std::vector<pid_t>& ranks);
  void expect_a_usable_checkpoint(const std::string& run);
  // Starts and kills until the run ends by itself.
  void train_through_kills(int number);

  TempDir dir_;
  int64_t seed_ = 0;
  std::mt19937_64 random_;
  int num_wanted_ = 0;
  int num_kills_ = 0;
  int num_inside_ = 0;       // of them, inside a save
  int64_t newest_seen_ = 0;  // of this run
  Listing before_;           // when the process that lives now was started
  std::chrono::microseconds whole_run_{0};
};

bool Kill::kill(Victim& victim, const std::vector<pid_t>& ranks) {
  if (ranks.empty()) return false;
  ++num_kills_;
  if (below(2) == 0) {
    Victim::kill_one(ranks[static_cast<size_t>(below(ranks.size()))]);
  } else {
    std::vector<pid_t> order = ranks;
    std::shuffle(order.begin(), order.end(), random_);
    victim.kill_all(order);
  }
  return true;
}

bool Kill::kill_inside_a_save(Victim& victim, const std::string& run) {
  const int wanted_saves = 1 + below(4);
  // From the moment at which its directory is seen: most saves take some milliseconds.
  const std::chrono::microseconds delay(static_cast<int64_t>(std::pow(10.0, 4.3 * uniform())));
  std::vector<pid_t> ranks;
  auto seen = before_.all;
  for (int saves = 0; saves < wanted_saves;) {
    const Listing now = list(run);
    newest_seen_ = std::max(newest_seen_, now.newest);
    for (const auto& entry : now.all) {
      if (!seen.insert(entry).second) continue;
      // All ranks live by then.
      if (ranks.empty()) ranks = victim.ranks();
      ++saves;
    }
    if (!victim.alive()) return false;
  }
  const auto until = Clock::now() + delay;
  while (Clock::now() < until) newest_seen_ = std::max(newest_seen_, list(run).newest);
  return victim.alive() && kill(victim, ranks);
}

bool Kill::kill_at(Victim& victim, const std::string& run, std::chrono::microseconds delay) {
  const auto until = Clock::now() + delay;
  while (Clock::now() < until && victim.alive()) {
    newest_seen_ = std::max(newest_seen_, list(run).newest);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  return victim.alive() && kill(victim, victim.ranks());
}

void Kill::expect_a_usable_checkpoint(const std::string& run) {
  const auto latest = latest_checkpoint(run);
  if (newest_seen_ == 0 && !latest) return;
  ASSERT_TRUE(latest.has_value()) << "the checkpoint of step " << newest_seen_ << " was there";
  EXPECT_GE(CheckpointReader(*latest).manifest().step, newest_seen_);
  EXPECT_EQ(CheckpointReader::verify(*latest), std::vector<std::string>{});
}

void Kill::train_through_kills(int number) {
  const std::string run = run_dir(number);
  newest_seen_ = 0;
  for (;;) {
    before_ = list(run);
    const auto from = latest_checkpoint(run);
    const auto victim = start(number);
    bool killed = false;
    if (num_kills_ < num_wanted_) {
      killed = num_kills_ % 3 < 2 ? kill_inside_a_save(*victim, run)
                                  : kill_at(*victim, run,
                                            std::chrono::microseconds(static_cast<int64_t>(
                                                uniform() * static_cast<double>(whole_run_.count()))));
    }
    const int status = victim->end();
    const std::string said = read_file(log());
    ASSERT_NE(status, -1) << "ranks outlived the one that was killed by a minute: " << said;
    if (from) {
      // A start that was killed early may not have come to say it.
      const bool says = said.find("continuing from " + *from) != std::string::npos;
      EXPECT_TRUE(says || (killed && said.find("step ") == std::string::npos)) << said;
    }
    EXPECT_EQ(count_of(said, "passed over"), 0) << said;
    if (!killed) {
      ASSERT_EQ(status, 0) << said;
      return;
    }
    const Listing after = list(run);
    num_inside_ += std::any_of(after.unfinished.begin(), after.unfinished.end(), [&](const Listing::Save& save) {
      return save.first > after.newest && !before_.all.contains(save);
    });
    expect_a_usable_checkpoint(run);
    if (HasFatalFailure()) return;
  }
}

TEST_P(Kill, ContinuesWithTheSameBits) {
  const int all = kills_in_all();
  num_wanted_ = all / kNumLayouts + (GetParam() < all % kNumLayouts ? 1 : 0);
  const auto begin = Clock::now();
  ASSERT_EQ(start(0)->end(), 0) << read_file(log());
  whole_run_ = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  const auto expected_losses = losses(run_dir(0));
  ASSERT_EQ(expected_losses.size(), static_cast<size_t>(kSteps));
  const auto expected_state = state_hashes(*latest_checkpoint(run_dir(0)));

  // Few saves are so fast that none is hit.
  const int wanted_inside = num_wanted_ / 3;
  for (int number = 1; num_kills_ < num_wanted_; ++number) {
    SCOPED_TRACE("run " + std::to_string(number) + ", TRIREME_KILL_SEED=" + std::to_string(seed_));
    train_through_kills(number);
    ASSERT_FALSE(HasFailure());
    EXPECT_EQ(losses(run_dir(number)), expected_losses);
    ASSERT_EQ(CheckpointReader(*latest_checkpoint(run_dir(number))).manifest().step, kSteps);
    EXPECT_EQ(state_hashes(*latest_checkpoint(run_dir(number))), expected_state);
    EXPECT_EQ(list(run_dir(number)).unfinished.size(), 0u);
    ASSERT_FALSE(HasFailure());
    if (num_kills_ >= num_wanted_ && num_inside_ < wanted_inside && num_wanted_ < 4 * all) num_wanted_ += 2;
  }
  EXPECT_GE(num_inside_, wanted_inside);
  std::printf("%s: seed %lld, %d kills, %d of them inside a save; a run takes %.2f s\n", layout().name,
              static_cast<long long>(seed_), num_kills_, num_inside_, static_cast<double>(whole_run_.count()) * 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Layouts, Kill, ::testing::Range(0, kNumLayouts),
                         [](const auto& layout) { return std::string(kLayouts[layout.param].name); });

}  // namespace
}  // namespace trireme
