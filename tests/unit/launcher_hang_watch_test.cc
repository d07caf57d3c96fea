// A run that stands still: who speaks, and of whom.
#include "launcher/hang_watch.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>

#include "core/error.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::TempDir;

constexpr double kTimeout = 0.2;

FlightRecord collective(const std::string& group, int group_rank, int group_size, int64_t sequence) {
  return {.sequence = sequence,
          .op = CommOp::all_reduce,
          .group = group,
          .group_rank = group_rank,
          .group_size = group_size};
}

// Three ranks; 0 and 1 wait in call 4 of the world, which 2 has not made.
class HangWatchTest : public ::testing::Test {
 protected:
  HangWatchTest() {
    for (int rank = 0; rank < 3; ++rank) {
      recorders_.push_back(std::make_unique<FlightRecorder>(rank));
      recorders_.back()->set_members("world", {0, 1, 2});
      recorders_.back()->set_step(12);
      recorders_.back()->mark_finished(recorders_.back()->add(collective("world", rank, 3, 3)));
      if (rank < 2) recorders_.back()->add(collective("world", rank, 3, 4));
    }
  }

  void watch(int rank) {
    const HangWatch::Options options{
        .timeout = kTimeout, .directory = dir_ / "hang", .world_size = 3, .answer_seconds = 3 * kTimeout};
    watches_.push_back(std::make_unique<HangWatch>(*recorders_[static_cast<size_t>(rank)], options,
                                                   [this, rank](const std::string& text) {
                                                     const std::lock_guard lock(mutex_);
                                                     spoken_.emplace_back(rank, text);
                                                     spoke_.notify_all();
                                                   }));
  }

  // What was said until somebody spoke and the watches ended.
  std::vector<std::pair<int, std::string>> spoken() {
    {
      std::unique_lock lock(mutex_);
      spoke_.wait_for(lock, std::chrono::seconds(60), [&] { return !spoken_.empty(); });
    }
    watches_.clear();
    return spoken_;
  }

  TempDir dir_;
  std::vector<std::unique_ptr<FlightRecorder>> recorders_;
  std::mutex mutex_;
  std::condition_variable spoke_;
  std::vector<std::pair<int, std::string>> spoken_;
  std::vector<std::unique_ptr<HangWatch>> watches_;
};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(HangWatchTest, TheLowestRankNamesTheOneThatIsInNoCall) {
  for (const int rank : {0, 1, 2}) watch(rank);
  const auto all = spoken();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].first, 0);
  const std::string& text = all[0].second;
  EXPECT_TRUE(has(text, "the run stands still in step 12: a call has waited for other ranks for 0.2 s")) << text;
  EXPECT_TRUE(has(text, "found rank 2 waiting in no call")) << text;
  EXPECT_TRUE(has(text, "group world: all_reduce #4 is unfinished; late: rank 2 (last call #3)")) << text;
}

TEST_F(HangWatchTest, ARankThatWritesNothingIsGone) {
  watch(1);
  watch(0);
  const auto all = spoken();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(has(all[0].second, "found rank 2 no longer responding")) << all[0].second;
}

TEST_F(HangWatchTest, NobodySpeaksWhileCallsEnd) {
  recorders_[0]->mark_finished(1);
  recorders_[1]->mark_finished(1);
  for (const int rank : {0, 1, 2}) watch(rank);
  {
    std::unique_lock lock(mutex_);
    EXPECT_FALSE(spoke_.wait_for(lock, std::chrono::duration<double>(3 * kTimeout), [&] { return !spoken_.empty(); }));
  }
  watches_.clear();
  EXPECT_FALSE(std::filesystem::exists(dir_ / "hang"));
}

TEST_F(HangWatchTest, WhereThereIsNoDirectoryTheRankSpeaksOfItself) {
  testing::write_file(dir_ / "hang", "a file");
  watch(1);
  const auto all = spoken();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(has(all[0].second, "found ranks 0, 2 no longer responding")) << all[0].second;
}

// Two tensor groups: in that of ranks 2 and 3 all have called.
TEST(HangReport, GroupsOfOneNameAreKeptApart) {
  std::vector<RankRecords> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    const int first = rank / 2 * 2;
    RankRecords r{.rank = rank, .groups = {{"tensor", {first, first + 1}}}};
    r.records.push_back(collective("tensor", rank - first, 2, rank == 1 ? 6 : 7));
    if (rank != 1) continue;
    r.records.back().finished = r.records.back().called;
    ranks.push_back(r);
  }
  for (const int rank : {0, 2, 3}) {
    const int first = rank / 2 * 2;
    ranks.push_back({.rank = rank,
                     .records = {collective("tensor", rank - first, 2, 7)},
                     .groups = {{"tensor", {first, first + 1}}}});
  }
  const std::string text = report_hang(ranks, 4, 30, "crash/hang");
  EXPECT_TRUE(has(text, "found rank 1 waiting in no call")) << text;
  EXPECT_TRUE(has(text, "group tensor: all_reduce #7 is unfinished; late: rank 1 (last call #6)")) << text;
  EXPECT_TRUE(has(text, "group tensor: all_reduce #7 is unfinished; all ranks have called")) << text;
}

TEST(HangReport, RanksThatWaitForEachOther) {
  const std::string text = report_hang(
      {{.rank = 0, .records = {collective("a", 0, 2, 1)}}, {.rank = 1, .records = {collective("b", 1, 2, 1)}}}, 2, 1800,
      "crash/hang");
  EXPECT_TRUE(has(text, "for 1800 s (found every rank waiting in a call: they wait for each other) at crash/hang"))
      << text;
}

TEST(HangReport, NamesSomeOfMany) {
  const std::string text =
      report_hang({{.rank = 0, .records = {collective("world", 0, 100, 1)}}}, 100, 60, "crash/hang");
  EXPECT_TRUE(has(text, "found ranks 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 83 more no longer"))
      << text;
}

TEST(RankRecords, AreReadAsTheyWereWritten) {
  FlightRecorder recorder(5);
  recorder.set_members("way", {3, 5});
  recorder.set_step(7);
  recorder.mark_finished(recorder.add(
      {.sequence = 2, .op = CommOp::recv, .group = "way", .group_rank = 1, .group_size = 2, .peer = 0, .bytes = 24}));
  recorder.add(
      {.sequence = 3, .op = CommOp::recv, .group = "way", .group_rank = 1, .group_size = 2, .peer = 0, .bytes = 24});
  const RankRecords read = rank_records_from_json(to_json(recorder.summary()));
  EXPECT_EQ(read.rank, 5);
  EXPECT_EQ(read.groups, (std::map<std::string, std::vector<int>>{{"way", {3, 5}}}));
  ASSERT_EQ(read.records.size(), 2u);
  const FlightRecord& r = read.records[1];
  EXPECT_EQ(std::tuple(r.step, r.sequence, r.op, r.group, r.group_rank, r.group_size, r.peer, r.bytes, r.is_finished()),
            std::tuple(7, 3, CommOp::recv, std::string("way"), 1, 2, 0, 24, false));
  EXPECT_TRUE(read.records[0].is_finished());
  for (const char* text : {"", "{", "{}", R"({"rank": 1, "groups": {}, "calls": [{"op": "dance"}]})"}) {
    EXPECT_THROW(rank_records_from_json(text), DataError) << text;
  }
}

// Of many calls a summary keeps what tells how far the rank came in every group.
TEST(RankRecords, ASummaryHasTheLastCallOfEachGroup) {
  FlightRecorder recorder(0);
  recorder.mark_finished(recorder.add(collective("seldom", 0, 2, 41)));
  for (int64_t i = 0; i < 500; ++i) recorder.mark_finished(recorder.add(collective("often", 0, 2, i)));
  const RankRecords summary = recorder.summary(/*num_recent=*/10);
  ASSERT_EQ(summary.records.size(), 11u);
  EXPECT_EQ(summary.records[0].sequence, 41);
  EXPECT_EQ(summary.records[10].sequence, 499);
}

}  // namespace
}  // namespace trireme
