#include "parallel/comm/flight_recorder.h"

#include <gtest/gtest.h>

#include <string>

namespace trireme {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(FlightRecorder, KeepsTheLastRecords) {
  FlightRecorder recorder(/*rank=*/3, /*capacity=*/4);
  for (int i = 0; i < 10; ++i) {
    recorder.set_step(i / 2);
    const int64_t id = recorder.add({.sequence = i, .op = CommOp::all_gather, .group = "data", .bytes = 100 * i});
    recorder.mark_started(id);
    if (i != 8) recorder.mark_finished(id);
  }
  recorder.mark_finished(0);  // long gone; must not touch the record in its place
  const std::vector<FlightRecord> records = recorder.records();
  ASSERT_EQ(records.size(), 4U);
  EXPECT_EQ(recorder.num_records(), 10);
  EXPECT_EQ(records.front().sequence, 6);
  EXPECT_EQ(records.back().sequence, 9);
  EXPECT_EQ(records.back().step, 4);
  EXPECT_EQ(records.back().bytes, 900);
  EXPECT_EQ(records[2].finished, FlightRecord::kNotYet);
  EXPECT_LE(records[3].started, records[3].finished);
  const std::string text = recorder.dump(/*num_finished=*/1);
  EXPECT_TRUE(contains(text, "rank 3:\n")) << text;
  EXPECT_TRUE(contains(text, "#8 all_gather, 800 bytes, UNFINISHED")) << text;
  EXPECT_TRUE(contains(text, "#9 all_gather, 900 bytes, done")) << text;
  EXPECT_FALSE(contains(text, "#7")) << text;
  recorder.clear();
  EXPECT_TRUE(recorder.records().empty());
}

FlightRecord collective(int64_t sequence, int group_rank, bool finished) {
  return {.sequence = sequence,
          .op = CommOp::all_reduce,
          .group = "data",
          .group_rank = group_rank,
          .group_size = 3,
          .finished = finished ? 1.0 : FlightRecord::kNotYet};
}

TEST(FlightRecorder, NamesTheLateRankOfACollective) {
  // World ranks 10, 11, 12; the second is one call behind.
  const std::string report = late_rank_report({{10, {collective(0, 0, true), collective(1, 0, false)}},
                                               {11, {collective(0, 1, true)}},
                                               {12, {collective(0, 2, true), collective(1, 2, false)}}});
  EXPECT_EQ(report, "group data: all_reduce #1 is unfinished; late: rank 11 (last call #0)\n");
}

TEST(FlightRecorder, NamesTheRankThatNeverCalled) {
  const std::string report = late_rank_report({{10, {collective(0, 0, false)}}, {12, {collective(0, 2, false)}}});
  EXPECT_TRUE(contains(report, "late: group rank 1 (no call known)")) << report;
}

TEST(FlightRecorder, NobodyIsLateWhenAllHaveCalled) {
  EXPECT_EQ(late_rank_report({{0, {collective(0, 0, true)}}, {1, {collective(0, 1, true)}}}), "");
  const std::string report = late_rank_report(
      {{0, {collective(0, 0, false)}}, {1, {collective(0, 1, false)}}, {2, {collective(0, 2, false)}}});
  EXPECT_TRUE(contains(report, "all ranks have called")) << report;
}

TEST(FlightRecorder, NamesTheLateSideOfATransfer) {
  const FlightRecord send = {
      .sequence = 2, .op = CommOp::send, .group = "pipe", .group_rank = 0, .group_size = 2, .peer = 1};
  const FlightRecord recv = {
      .sequence = 1, .op = CommOp::recv, .group = "pipe", .group_rank = 1, .group_size = 2, .peer = 0, .finished = 1.0};
  const std::string report = late_rank_report({{4, {send}}, {5, {recv}}});
  EXPECT_EQ(report, "group pipe: rank 4 waits in send #2 to rank 5; late: rank 5 has not posted the recv\n");
}

}  // namespace
}  // namespace trireme
