// The executor with ranks as threads: results of one rank from every schedule, errors, times of sleeping work, and its
// agreement with the checker on broken schedules.
#include "parallel/pipeline/executor.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <future>
#include <random>

#include "parallel/comm/thread_world.h"
#include "parallel/pipeline/checker.h"
#include "parallel/pipeline/make_schedule.h"
#include "tests/parallel/pipeline_toy.h"

namespace trireme {
namespace {

using Kind = PipelineSchedule;

int chunks_on_a_rank(Kind kind, int of_interleaved) {
  return kind == Kind::interleaved ? of_interleaved : kind == Kind::zb_v ? 2 : 1;
}

const Kind kKinds[] = {Kind::gpipe, Kind::one_f_one_b, Kind::interleaved, Kind::zb_h1, Kind::zb_v};

struct Outcome {
  std::map<int, uint64_t> gradients;  // by chunk
  std::map<std::pair<int, int>, uint64_t> results;
  std::vector<std::vector<TimedAction>> times;  // by rank
};

Outcome run_ranks(const Schedule& schedule, double sleep_seconds = 0) {
  const auto num_ranks = static_cast<size_t>(schedule.num_ranks);
  std::vector<ToyWork> works(num_ranks, ToyWork(schedule.num_chunks));
  Outcome outcome;
  outcome.times.resize(num_ranks);
  run_thread_ranks(schedule.num_ranks,
                   [&](Communicator& world) {
                     const auto r = static_cast<size_t>(world.rank());
                     TestDevice device;
                     ToyChannels ways(world);
                     works[r].sleep_seconds = sleep_seconds;
                     works[r].evaluation = schedule.forward_only;
                     ProgramTimes times;
                     run_program(schedule, world.rank(), works[r], ways.channels(), device.stream, &times);
                     outcome.times[r] = times.read();
                   },
                   {.timeout_seconds = 20});
  for (const ToyWork& work : works) {
    outcome.gradients.insert(work.gradients.begin(), work.gradients.end());
    outcome.results.insert(work.results.begin(), work.results.end());
  }
  return outcome;
}

// Whether the ranks come to their end with one rank's gradients (or results, of an evaluation).
// Errors other than those that an illegal program may end with fail the test.
bool runs_right(const Schedule& schedule, std::string& why_not) {
  try {
    const Outcome outcome = run_ranks(schedule);
    why_not = "it came to its end with other numbers than one rank";
    std::map<std::pair<int, int>, uint64_t> results;
    for (int j = 0; j < schedule.num_microbatches; ++j) {
      results[{schedule.last_chunk(), j}] = ToyWork::reference_result(schedule.num_chunks, j);
    }
    if (outcome.results != results) return false;
    return schedule.forward_only ||
           outcome.gradients == ToyWork::reference(schedule.num_chunks, schedule.num_microbatches);
  } catch (const BugError& error) {
    why_not = error.what();
  } catch (const PeerError& error) {
    why_not = error.what();
    EXPECT_NE(why_not.find("deadlock"), std::string::npos) << why_not;
  }
  return false;
}

TEST(PipelineExecutor, EveryScheduleGivesOneRanksGradients) {
  for (const Kind kind : kKinds) {
    for (const int p : {1, 2, 3, 5}) {
      for (const int m : {1, 2, 4, 7}) {
        for (const bool forward_only : {false, true}) {
          const int v = chunks_on_a_rank(kind, 3);
          const Schedule schedule = make_schedule(kind, p, v, m, 3, forward_only);
          std::string why_not;
          EXPECT_TRUE(runs_right(schedule, why_not)) << schedule.name << " p " << p << " m " << m << ": " << why_not;
        }
      }
    }
  }
}

// That the toy shows what it is for.
TEST(PipelineExecutor, ReferenceDependsOnChunksAndMicrobatches) {
  EXPECT_NE(ToyWork::reference(2, 3), ToyWork::reference(2, 2));
  EXPECT_NE(ToyWork::reference(2, 3).at(0), ToyWork::reference(3, 3).at(0));
  EXPECT_NE(ToyWork::reference_result(2, 0), ToyWork::reference_result(2, 1));
}

// What the executor says of a program of one rank.
std::string error_of(std::vector<Action> program, int num_microbatches = 2) {
  Schedule schedule{.name = "by hand", .num_microbatches = num_microbatches, .rank_of_chunk = {0}, .programs = {}};
  schedule.programs.push_back(std::move(program));
  EXPECT_FALSE(check(schedule).ok());
  ToyWork work(1);
  TestDevice device;
  try {
    run_program(schedule, 0, work, {}, device.stream);
  } catch (const BugError& error) {
    return error.what();
  }
  return "no error";
}

TEST(PipelineExecutor, IllegalProgramsAreNamed) {
  using enum ActionKind;
  EXPECT_EQ(error_of({{forward, 0, 0}, {forward, 0, 0}}),
            "illegal pipeline program: it ran before at rank 0, forward(chunk 0, microbatch 0)");
  EXPECT_EQ(error_of({{forward, 0, 0}, {backward_input, 0, 0}, {backward_input, 0, 0}}),
            "illegal pipeline program: it ran before at rank 0, backward_input(chunk 0, microbatch 0)");
  EXPECT_EQ(error_of({{forward, 0, 0}, {backward_weight, 0, 0}}),
            "illegal pipeline program: backward_input has not run at rank 0, backward_weight(chunk 0, microbatch 0)");
  EXPECT_EQ(error_of({{backward, 0, 0}}),
            "illegal pipeline program: its forward has not run at rank 0, backward(chunk 0, microbatch 0)");
  EXPECT_EQ(
      error_of({{forward, 0, 0}, {forward, 0, 1}, {backward, 0, 1}}),
      "illegal pipeline program: the chunk's next weight gradient is of microbatch 0 at rank 0, backward(chunk 0, "
      "microbatch 1)");
  EXPECT_EQ(error_of({{forward, 0, 0}, {backward, 0, 0}}),
            "illegal pipeline program: at its end chunk 0, microbatch 1 isn't finished at rank 0");
  EXPECT_EQ(error_of({{forward, 1, 0}}),
            "illegal pipeline program: the chunk isn't of this rank at rank 0, forward(chunk 1, microbatch 0)");
  EXPECT_EQ(error_of({{forward, 0, 2}}),
            "illegal pipeline program: there is no such microbatch at rank 0, forward(chunk 0, microbatch 2)");
  EXPECT_EQ(error_of({{recv_activation, 0, 0, 0}}),
            "illegal pipeline program: there is no chunk to exchange it with at rank 0, recv_activation(chunk 0, "
            "microbatch 0, from 0)");
}

// ---- Random edits ----

class Edits {
 public:
  explicit Edits(unsigned seed) : random_(seed) {}

  Schedule draw_schedule() {
    const Kind kind = kKinds[draw(0, 4)];
    const int m = draw(1, 5);
    return make_schedule(kind, draw(1, 4), chunks_on_a_rank(kind, draw(1, 3)), m, draw(1, m + 1), draw(0, 7) == 0);
  }

  // Changes one thing; tells what.
  std::string edit(Schedule& schedule) {
    const size_t r = static_cast<size_t>(draw(0, schedule.num_ranks - 1));
    std::vector<Action>& program = schedule.programs[r];
    const int n = static_cast<int>(program.size());
    const int i = draw(0, n - 1);
    const std::string what = "rank " + std::to_string(r) + ", action " + std::to_string(i);
    const Action action = program[static_cast<size_t>(i)];
    switch (draw(0, 5)) {
      case 0: program.erase(program.begin() + i); return "drop " + what;
      case 1: program.insert(program.begin() + draw(0, n), action); return "duplicate " + what;
      case 2: {
        const size_t to = static_cast<size_t>(draw(0, schedule.num_ranks - 1));
        program.erase(program.begin() + i);
        std::vector<Action>& other = schedule.programs[to];
        const int k = draw(0, static_cast<int>(other.size()));
        other.insert(other.begin() + k, action);
        return "move " + what + " to rank " + std::to_string(to) + ", place " + std::to_string(k);
      }
      case 3: {
        const int k = draw(0, n - 1);
        std::swap(program[static_cast<size_t>(i)], program[static_cast<size_t>(k)]);
        return "swap " + what + " with " + std::to_string(k);
      }
      default: {  // near ones are often legal
        const int k = std::min(n - 1, i + draw(1, 3));
        std::swap(program[static_cast<size_t>(i)], program[static_cast<size_t>(k)]);
        return "swap " + what + " with " + std::to_string(k);
      }
    }
  }

 private:
  int draw(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }

  std::mt19937 random_;
};

TEST(PipelineExecutor, AgreesWithTheCheckerOn2000Edits) {
  int num_legal = 0;
  int num_deadlocks = 0;
  for (unsigned seed = 0; seed < 2000; ++seed) {
    Edits edits(seed);
    Schedule schedule = edits.draw_schedule();
    const std::string edit = edits.edit(schedule);
    const CheckReport report = check(schedule);
    std::string why_not;
    const bool right = runs_right(schedule, why_not);
    num_legal += right;
    num_deadlocks += !right && why_not.find("deadlock") != std::string::npos;
    ASSERT_EQ(report.ok(), right) << "seed " << seed << ", " << schedule.name << ", " << schedule.num_ranks
                                  << " ranks, " << schedule.num_microbatches << " microbatches, " << edit
                                  << "\nchecker: " << report.violation << "\nexecutor: " << why_not;
  }
  // Both verdicts, and the deadlocks among them, are no rare things here.
  EXPECT_GT(num_legal, 200);
  EXPECT_LT(num_legal, 1500);
  EXPECT_GT(num_deadlocks, 20);
  RecordProperty("legal", num_legal);
  RecordProperty("deadlocks", num_deadlocks);
}

// ---- Time ----

double measured_bubble(const Schedule& schedule) {
  return Timeline{schedule, run_ranks(schedule, /*sleep_seconds=*/0.04).times}.max_bubble();
}

// All schedules at once: sleeping takes no processor. On a machine that is busy with something else a sleeper wakes late
// now and then, so what is far off is measured again; what is wrong stays far off.
TEST(PipelineExecutor, SleepingWorkHasTheBubbleOfTheTheory) {
  struct Case {
    Schedule schedule;
    double bubble;
  };
  std::vector<Case> cases = {{make_schedule(Kind::gpipe, 4, 1, 8), 3.0 / 8},
                             {make_schedule(Kind::one_f_one_b, 4, 1, 8), 3.0 / 8},
                             {make_schedule(Kind::interleaved, 3, 2, 6), 2.0 / 12},
                             {make_schedule(Kind::zb_h1, 4, 1, 8), 1.0 / 8},
                             {make_schedule(Kind::zb_v, 3, 2, 6), 0}};
  std::string far_off;
  for (int attempt = 0; attempt < 12 && !cases.empty(); ++attempt) {
    std::vector<std::future<double>> measured;
    for (const Case& c : cases) {
      measured.push_back(std::async(std::launch::async, [&c] { return measured_bubble(c.schedule); }));
    }
    std::vector<Case> again;
    far_off.clear();
    for (size_t i = 0; i < cases.size(); ++i) {
      const double bubble = measured[i].get();
      if (std::abs(bubble - cases[i].bubble) <= 0.03) continue;
      far_off += cases[i].schedule.name + ": " + std::to_string(bubble) + " instead of " +
                 std::to_string(cases[i].bubble) + "\n";
      again.push_back(std::move(cases[i]));
    }
    cases = std::move(again);
  }
  EXPECT_EQ(far_off, "");
}

// A program ends when all that it sent has arrived.
TEST(PipelineExecutor, WaitsForItsSendsAtTheEnd) {
  constexpr double kDelay = 0.05;
  const Schedule schedule = make_schedule(Kind::one_f_one_b, 2, 1, 1, {}, /*forward_only=*/true);
  run_thread_ranks(
      2,
      [&](Communicator& world) {
        TestDevice device;
        ToyChannels ways(world);
        ToyWork work(2);
        work.evaluation = true;
        const auto begin = std::chrono::steady_clock::now();
        run_program(schedule, world.rank(), work, ways.channels(), device.stream);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        if (world.rank() == 0) {
          EXPECT_GE(took.count(), kDelay);
        }
      },
      {.delay_seconds = [&](const std::string& name, const CommCall&) { return name == "0 to 1" ? kDelay : 0.0; }});
}

}  // namespace
}  // namespace trireme
