// Schedules: what they are known to be, bubbles and stashes exactly as in theory, proofs of random ones, and that the
// checker sees each kind of fault.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "core/error.h"
#include "parallel/pipeline/checker.h"
#include "parallel/pipeline/make_schedule.h"
#include "parallel/pipeline/timeline.h"

namespace trireme {
namespace {

using Kind = PipelineSchedule;

int chunks_on_a_rank(Kind kind, int of_interleaved) {
  return kind == Kind::interleaved ? of_interleaved : kind == Kind::zb_v ? 2 : 1;
}

const Kind kKinds[] = {Kind::gpipe, Kind::one_f_one_b, Kind::interleaved, Kind::zb_h1, Kind::zb_v};

// "F0 B0": computations only, with the chunk where a rank has several ("F1.0"); with transfers: "a>" sends an
// activation, "<g" receives a gradient.
std::string text_of(const Schedule& schedule, int rank, bool transfers = false) {
  static constexpr const char* kLetters[kNumActionKinds] = {"F", "D", "B", "W", "a>", "<a", "g>", "<g"};
  const bool chunks = schedule.num_chunks > schedule.num_ranks;
  std::string text;
  for (const Action& action : schedule.program(rank)) {
    if (!is_compute(action.kind) && !transfers) continue;
    text += (text.empty() ? "" : " ") + std::string(kLetters[static_cast<size_t>(action.kind)]);
    if (chunks) text += std::to_string(action.chunk) + ".";
    text += std::to_string(action.microbatch);
  }
  return text;
}

double unit_bubble(const Schedule& schedule, double forward = 1, double input = 1, double weight = 1) {
  return simulate(schedule, ActionCosts::uniform(schedule.num_chunks, forward, input, weight)).max_bubble();
}

std::string shape_text(const Schedule& s) {
  return s.name + ", " + std::to_string(s.num_ranks) + " ranks, " + std::to_string(s.num_chunks) + " chunks, " +
         std::to_string(s.num_microbatches) + " microbatches" + (s.forward_only ? ", forward only" : "");
}

void expect_right(const Schedule& schedule) {
  const CheckReport report = check(schedule);
  ASSERT_EQ(report.violation, "") << shape_text(schedule);
}

TEST(PipelineSchedule, KnownPrograms) {
  // D is a whole backward, B and W are its halves.
  const Schedule gpipe = make_schedule(Kind::gpipe, 2, 1, 3);
  EXPECT_EQ(text_of(gpipe, 0), "F0 F1 F2 D0 D1 D2");
  const Schedule one = make_schedule(Kind::one_f_one_b, 4, 1, 6);
  EXPECT_EQ(text_of(one, 0), "F0 F1 F2 F3 D0 F4 D1 F5 D2 D3 D4 D5");
  EXPECT_EQ(text_of(one, 2), "F0 F1 D0 F2 D1 F3 D2 F4 D3 F5 D4 D5");
  EXPECT_EQ(text_of(one, 3), "F0 D0 F1 D1 F2 D2 F3 D3 F4 D4 F5 D5");
  // Narayanan et al. 2021, figure 4: four ranks, two chunks each.
  const Schedule interleaved = make_schedule(Kind::interleaved, 4, 2, 4);
  EXPECT_EQ(text_of(interleaved, 0), "F0.0 F0.1 F0.2 F0.3 F4.0 F4.1 F4.2 F4.3 D4.0 D4.1 D4.2 D4.3 D0.0 D0.1 D0.2 D0.3");
  EXPECT_EQ(text_of(interleaved, 3), "F3.0 F3.1 F3.2 F3.3 F7.0 D7.0 F7.1 D7.1 F7.2 D7.2 F7.3 D7.3 D3.0 D3.1 D3.2 D3.3");
  const Schedule ragged = make_schedule(Kind::interleaved, 1, 2, 3, 2);
  EXPECT_EQ(text_of(ragged, 0), "F0.0 F0.1 F1.0 D1.0 F1.1 D1.1 F0.2 D0.0 F1.2 D0.1 D1.2 D0.2");
  const Schedule zero = make_schedule(Kind::zb_v, 2, 2, 3);
  EXPECT_EQ(zero.rank_of_chunk, (std::vector<int>{0, 1, 1, 0}));
  EXPECT_EQ(text_of(zero, 0).substr(0, 29), "F0.0 F0.1 F0.2 F3.0 B3.0 W3.0");
  EXPECT_EQ(text_of(zero, 1).substr(0, 39), "F1.0 F2.0 F1.1 F2.1 B2.0 W2.0 F1.2 B1.0");
}

TEST(PipelineSchedule, TransfersFollowTheirMakersAndRunAheadOfTheirUsers) {
  const Schedule one = make_schedule(Kind::one_f_one_b, 2, 1, 3);
  EXPECT_EQ(text_of(one, 0, true), "F0 a>0 <g0 F1 a>1 D0 <g1 F2 a>2 <g2 D1 D2");
  EXPECT_EQ(text_of(one, 1, true), "<a0 F0 <a1 D0 g>0 F1 <a2 D1 g>1 F2 D2 g>2");
  // Activations and gradients from one rank to another are one FIFO; hand-overs on a rank are no actions.
  const Schedule zero = make_schedule(Kind::zb_v, 2, 2, 1);
  EXPECT_EQ(text_of(zero, 0, true), "<a3.0 F0.0 a>0.0 F3.0 B3.0 g>3.0 <g0.0 W3.0 B0.0 W0.0");
  EXPECT_EQ(text_of(zero, 1, true), "<a1.0 F1.0 <g2.0 F2.0 a>2.0 B2.0 B1.0 g>1.0 W2.0 W1.0");
  for (const Action& action : zero.program(0)) EXPECT_EQ(action.peer, is_compute(action.kind) ? -1 : 1);
}

// On every rank of many schedules: sends at once, receives at least one computation ahead.
TEST(PipelineSchedule, EveryReceiveOverlapsAComputation) {
  for (const Kind kind : kKinds) {
    const Schedule schedule = make_schedule(kind, 4, chunks_on_a_rank(kind, 3), 9);
    for (const auto& program : schedule.programs) {
      for (size_t i = 0; i < program.size(); ++i) {
        if (is_send(program[i].kind)) {
          EXPECT_TRUE(is_compute(program[i - 1].kind) && program[i - 1].chunk == program[i].chunk &&
                      program[i - 1].microbatch == program[i].microbatch);
        }
        if (!is_recv(program[i].kind)) continue;
        const bool gradient = program[i].kind == ActionKind::recv_gradient;
        int between = 0;
        for (size_t k = i + 1; k < program.size(); ++k) {
          if (!is_compute(program[k].kind)) continue;
          if (program[k].chunk == program[i].chunk && program[k].microbatch == program[i].microbatch &&
              (program[k].kind != ActionKind::forward) == gradient) {
            break;
          }
          ++between;
        }
        const auto first =
            std::find_if(program.begin(), program.end(), [](const Action& a) { return is_compute(a.kind); });
        EXPECT_TRUE(between >= 1 || first > program.begin() + static_cast<std::ptrdiff_t>(i)) << program[i].str();
      }
    }
  }
}

TEST(PipelineSchedule, BubblesAndStashesAsInTheory) {
  for (int p = 1; p <= 16; ++p) {
    for (const int m : {1, 2, 3, p - 1, p, p + 1, 2 * p - 2, 2 * p - 1, 2 * p + 3, 4 * p, 64}) {
      if (m < 1) continue;
      SCOPED_TRACE("p " + std::to_string(p) + ", m " + std::to_string(m));
      const double linear = static_cast<double>(p - 1) / m;
      const Schedule gpipe = make_schedule(Kind::gpipe, p, 1, m);
      const Schedule one = make_schedule(Kind::one_f_one_b, p, 1, m);
      const Schedule h1 = make_schedule(Kind::zb_h1, p, 1, m);
      const Schedule v = make_schedule(Kind::zb_v, p, 2, m);
      EXPECT_DOUBLE_EQ(unit_bubble(gpipe), linear);
      EXPECT_DOUBLE_EQ(unit_bubble(one), linear);
      EXPECT_DOUBLE_EQ(unit_bubble(one, 1, 0.5, 0.5), linear);
      EXPECT_DOUBLE_EQ(unit_bubble(gpipe, 2, 1, 3), linear);
      if (m >= p) {
        EXPECT_DOUBLE_EQ(unit_bubble(h1), linear / 3);
      } else {
        // Before the first backward comes back, 2p − 1 units, there are only m forwards to run.
        EXPECT_DOUBLE_EQ(unit_bubble(h1), (2.0 * p - 1 - m) / (3.0 * m));
      }
      if (m >= 2 * p - 1) {
        EXPECT_EQ(unit_bubble(v), 0);
      }
      int most_v = 0;
      for (int r = 0; r < p; ++r) {
        EXPECT_EQ(peak_stashes(gpipe, r), m);
        EXPECT_EQ(peak_stashes(one, r), std::min(p - r, m));
        EXPECT_EQ(peak_stashes(h1, r), std::min(p, m));
        most_v = std::max(most_v, peak_stashes(v, r));
        if (m >= 2 * p - 1) {
          EXPECT_EQ(peak_stashes(v, r), 2 * p);
        }
      }
      EXPECT_EQ(most_v, std::min(2 * p, 2 * m));
    }
  }
}

TEST(PipelineSchedule, InterleavedBubbleAsInTheory) {
  for (int p = 1; p <= 12; ++p) {
    for (int v = 1; v <= 4; ++v) {
      for (const int k : {1, 2, 3, 5}) {
        for (const int group : {p, 2 * p}) {
          SCOPED_TRACE("p " + std::to_string(p) + ", v " + std::to_string(v) + ", m " + std::to_string(k * p));
          const Schedule schedule = make_schedule(Kind::interleaved, p, v, k * p, group);
          EXPECT_DOUBLE_EQ(unit_bubble(schedule), (p - 1.0) / (v * k * p));
          EXPECT_DOUBLE_EQ(unit_bubble(schedule, 1, 0.5, 0.5), (p - 1.0) / (v * k * p));
          for (int r = 0; r < p; ++r) {
            EXPECT_LE(peak_stashes(schedule, r), 2 * (p - 1 - r) + (v - 1) * group + 1);
          }
        }
      }
    }
  }
}

TEST(PipelineSchedule, EverySmallShapeIsProved) {
  for (const Kind kind : kKinds) {
    for (int p = 1; p <= 5; ++p) {
      for (int v = 1; v <= (kind == Kind::interleaved ? 3 : 1); ++v) {
        for (int m = 1; m <= 9; ++m) {
          for (int group = 1; group <= (kind == Kind::interleaved ? m + 1 : 1); ++group) {
            expect_right(make_schedule(kind, p, chunks_on_a_rank(kind, v), m, group));
            expect_right(make_schedule(kind, p, chunks_on_a_rank(kind, v), m, group, /*forward_only=*/true));
          }
        }
      }
    }
  }
}

TEST(PipelineSchedule, RandomOnesAreProved) {
  std::mt19937 random(20260801);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution(low, high)(random); };
  for (int i = 0; i < 400; ++i) {
    const Kind kind = kKinds[draw(0, 4)];
    const int m = draw(1, 64);
    const Schedule schedule =
        make_schedule(kind, draw(1, 16), chunks_on_a_rank(kind, draw(1, 4)), m,
                      draw(0, 1) ? std::optional<int64_t>(draw(1, m + 4)) : std::nullopt, draw(0, 3) == 0);
    expect_right(schedule);
    const CheckReport report = check(schedule);
    for (int r = 0; r < schedule.num_ranks; ++r) {
      EXPECT_EQ(report.peak_stashes[static_cast<size_t>(r)], peak_stashes(schedule, r));
    }
  }
}

TEST(PipelineSchedule, ChunksThatDontFitAreABug) {
  EXPECT_THROW(make_schedule(Kind::one_f_one_b, 2, 2, 4), BugError);
  EXPECT_THROW(make_schedule(Kind::zb_v, 2, 1, 4), BugError);
}

// ---- Faults that the checker must name. 1f1b, two ranks, two microbatches:
//   rank 0: F0 a>0 <g0 F1 a>1 <g1 D0 D1    rank 1: <a0 F0 <a1 D0 g>0 F1 D1 g>1

class BrokenSchedule : public ::testing::Test {
 protected:
  std::vector<Action>& program(int rank) { return schedule_.programs[static_cast<size_t>(rank)]; }
  Action& at(int rank, const std::string& text) {
    for (Action& action : program(rank)) {
      if (action.str().starts_with(text)) return action;
    }
    ADD_FAILURE() << "no " << text;
    return program(rank)[0];
  }
  void expect(const std::string& violation) const { EXPECT_EQ(check(schedule_).violation, violation); }

  Schedule schedule_ = make_schedule(Kind::one_f_one_b, 2, 1, 2);
};

TEST_F(BrokenSchedule, WrongChunk) {
  at(0, "forward(chunk 0, microbatch 1").chunk = 1;
  expect("rank 0, action 3, forward(chunk 1, microbatch 1): the chunk is of rank 1");
}

TEST_F(BrokenSchedule, TwiceTheSame) {
  at(0, "forward(chunk 0, microbatch 1").microbatch = 0;
  expect("rank 0, action 3, forward(chunk 0, microbatch 0): it ran before");
}

TEST_F(BrokenSchedule, MissingComputation) {
  std::erase(program(0), at(0, "backward(chunk 0, microbatch 1)"));
  expect("rank 0, at the end, chunk 0, microbatch 1: backward has not run");
}

TEST_F(BrokenSchedule, WeightsOutOfOrder) {
  std::swap(at(0, "backward(chunk 0, microbatch 0)").microbatch, at(0, "backward(chunk 0, microbatch 1)").microbatch);
  expect("rank 0, action 6, backward(chunk 0, microbatch 1): the chunk's next weight gradient is of microbatch 0");
}

TEST_F(BrokenSchedule, HalvesOutOfOrder) {
  schedule_ = make_schedule(Kind::zb_h1, 1, 1, 1);
  std::swap(at(0, "backward_input").kind, at(0, "backward_weight").kind);
  expect("rank 0, action 1, backward_weight(chunk 0, microbatch 0): its backward_input has not run");
}

TEST_F(BrokenSchedule, MissingReceive) {
  std::erase(program(1), at(1, "recv_activation(chunk 1, microbatch 1"));
  expect("rank 1, action 4, forward(chunk 1, microbatch 1): its input isn't there");
}

TEST_F(BrokenSchedule, MissingSend) {
  std::erase(program(1), at(1, "send_gradient(chunk 1, microbatch 1"));
  expect("rank 1, at the end, chunk 1, microbatch 1: the gradient was not sent");
}

TEST_F(BrokenSchedule, SentTwice) {
  auto& zero = program(0);
  zero.push_back(at(0, "send_activation(chunk 0, microbatch 0"));
  expect("rank 0, action 8, send_activation(chunk 0, microbatch 0, to 1): it was sent before");
}

TEST_F(BrokenSchedule, ReceivedTwice) {
  auto& zero = program(0);
  zero.push_back(at(0, "recv_gradient(chunk 0, microbatch 0"));
  expect("rank 0, action 8, recv_gradient(chunk 0, microbatch 0, from 1): it was received before");
}

TEST_F(BrokenSchedule, WrongPeer) {
  at(0, "send_activation(chunk 0, microbatch 1").peer = 0;
  expect("rank 0, action 4, send_activation(chunk 0, microbatch 1, to 0): the other chunk is of rank 1");
}

TEST_F(BrokenSchedule, WrongForm) {
  schedule_.rank_of_chunk[1] = 2;
  expect("a chunk lies on a rank that isn't there");
  schedule_.rank_of_chunk.pop_back();
  expect("not one rank for each chunk");
}

TEST_F(BrokenSchedule, SendsInAnotherOrderThanReceives) {
  std::swap(at(0, "recv_gradient(chunk 0, microbatch 0").microbatch,
            at(0, "recv_gradient(chunk 0, microbatch 1").microbatch);
  expect(
      "from rank 1 to rank 0: send_gradient(chunk 1, microbatch 0, to 0) meets recv_gradient(chunk 0, microbatch 1, "
      "from 1)");
}

TEST_F(BrokenSchedule, BackwardInAnEvaluation) {
  schedule_.forward_only = true;
  expect("rank 0, action 2, recv_gradient(chunk 0, microbatch 0, from 1): an evaluation has no backward");
}

// Each rank on its own is right, and so is each way between two; together they never end.
TEST_F(BrokenSchedule, Deadlock) {
  const auto position = [&](int rank, const std::string& text) { return &at(rank, text) - program(rank).data(); };
  // The second microbatch leaves rank 0 only after the first one's gradient, which rank 1 makes after the second forward.
  auto& zero = program(0);
  const auto send = position(0, "send_activation(chunk 0, microbatch 1");
  const auto backward = position(0, "backward(chunk 0, microbatch 0");
  std::rotate(zero.begin() + send, zero.begin() + send + 1, zero.begin() + backward + 1);
  EXPECT_TRUE(check(schedule_).ok());  // late, but it comes
  auto& one = program(1);
  std::rotate(one.begin() + position(1, "backward(chunk 1, microbatch 0"),
              one.begin() + position(1, "forward(chunk 1, microbatch 1"),
              one.begin() + position(1, "forward(chunk 1, microbatch 1") + 1);
  expect("deadlock: rank 0, action 5, backward(chunk 0, microbatch 0) waits for what is never sent before it");
}

}  // namespace
}  // namespace trireme
