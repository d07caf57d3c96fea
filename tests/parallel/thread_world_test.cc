// What is particular to ranks as threads: rendezvous, deadlocks, mistakes, aborts, delays.
#include "parallel/comm/thread_world.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "tests/parallel/comm_conformance.h"

namespace trireme {
namespace {

using Body = std::function<void(Communicator&, Stream&)>;

void run_ranks(int size, const Body& body, ThreadWorldOptions options = {}) {
  std::vector<TestDevice> devices(static_cast<size_t>(size));
  run_thread_ranks(
      size, [&](Communicator& comm) { body(comm, devices[static_cast<size_t>(comm.rank())].stream); },
      std::move(options));
}

// The message of the error that the run ends with; fails when there is none or it is of another type.
template <class ErrorType>
std::string error_of(int size, const Body& body, ThreadWorldOptions options = {}) {
  try {
    run_ranks(size, body, std::move(options));
  } catch (const ErrorType& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error: " << error.what();
    return "";
  }
  ADD_FAILURE() << "no error";
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(ThreadWorld, SendWaitsForItsReceive) {
  run_ranks(2, [](Communicator& comm, Stream& stream) {
    const Tensor t = Tensor::empty(stream, {10}, DType::f32);
    const Tensor flag = Tensor::empty(stream, {1}, DType::u8);
    const auto side = comm.split(std::vector<int>{0, 1}, "side");
    if (comm.rank() == 0) {
      const WorkHandle work = comm.send_recv({Transfer::send(t, 1)}, stream);
      side->barrier(stream)->wait(stream);
      // Rank 1 has not posted the receive: it waits for the second barrier first.
      EXPECT_FALSE(work->done());
      side->barrier(stream)->wait(stream);
      work->wait(stream);
      EXPECT_TRUE(work->done());
    } else {
      side->barrier(stream)->wait(stream);
      side->barrier(stream)->wait(stream);
      comm.send_recv({Transfer::recv(t, 0)}, stream)->wait(stream);
    }
  });
}

TEST(ThreadWorld, TwoSendsThatWaitForEachOtherAreADeadlock) {
  const std::string message = error_of<PeerError>(2, [](Communicator& comm, Stream& stream) {
    const Tensor a = Tensor::empty(stream, {10}, DType::f32);
    const Tensor b = Tensor::empty(stream, {10}, DType::f32);
    const int other = 1 - comm.rank();
    comm.send_recv({Transfer::send(a, other)}, stream)->wait(stream);
    comm.send_recv({Transfer::recv(b, other)}, stream)->wait(stream);
  });
  EXPECT_TRUE(contains(message, "deadlock")) << message;
  EXPECT_TRUE(contains(message, "rank 0 waits for send_recv {send f32[10] to 1}")) << message;
  EXPECT_TRUE(contains(message, "rank 1 waits for send_recv {send f32[10] to 0}")) << message;
}

// The calls on one communicator are a queue, also when nobody waits between them.
TEST(ThreadWorld, LaterCallsDontHelpEarlierOnes) {
  const std::string message = error_of<PeerError>(2, [](Communicator& comm, Stream& stream) {
    const Tensor a = Tensor::empty(stream, {10}, DType::f32);
    const Tensor b = Tensor::empty(stream, {10}, DType::f32);
    const int other = 1 - comm.rank();
    const WorkHandle first = comm.send_recv({Transfer::send(a, other)}, stream);
    const WorkHandle second = comm.send_recv({Transfer::recv(b, other)}, stream);
    second->wait(stream);
    first->wait(stream);
  });
  EXPECT_TRUE(contains(message, "deadlock")) << message;
  EXPECT_TRUE(contains(message, "behind an earlier call")) << message;
}

TEST(ThreadWorld, ARankThatLeavesEarlyIsADeadlock) {
  const std::string message = error_of<PeerError>(3, [](Communicator& comm, Stream& stream) {
    if (comm.rank() != 1) comm.barrier(stream)->wait(stream);
  });
  EXPECT_TRUE(contains(message, "rank 1 is gone")) << message;
}

TEST(ThreadWorld, TimeoutEndsAWait) {
  const std::string message = error_of<PeerError>(2,
                                                  [](Communicator& comm, Stream& stream) {
                                                    if (comm.rank() == 0) comm.barrier(stream)->wait(stream);
                                                  },
                                                  {.timeout_seconds = 0.05, .detect_deadlock = false});
  EXPECT_TRUE(contains(message, "rank 0 waited")) << message;
  EXPECT_TRUE(contains(message, "barrier")) << message;
}

TEST(ThreadWorld, CallsThatDontFitAreNamed) {
  std::string message = error_of<BugError>(2, [](Communicator& comm, Stream& stream) {
    const Tensor t = Tensor::empty(stream, {10 + comm.rank()}, DType::f32);
    comm.all_reduce(t, ReduceOp::sum, stream)->wait(stream);
  });
  EXPECT_TRUE(contains(message, "all_reduce sum of f32[10]")) << message;
  EXPECT_TRUE(contains(message, "all_reduce sum of f32[11]")) << message;
  message = error_of<BugError>(2, [](Communicator& comm, Stream& stream) {
    const Tensor t = Tensor::empty(stream, {10 + comm.rank()}, DType::f32);
    comm.send_recv({comm.rank() == 0 ? Transfer::send(t, 1) : Transfer::recv(t, 0)}, stream)->wait(stream);
  });
  EXPECT_TRUE(contains(message, "rank 0 sends 40 bytes to rank 1, which expects 44")) << message;
  message = error_of<BugError>(2, [](Communicator& comm, Stream& stream) {
    const Tensor t = Tensor::empty(stream, {8}, DType::f32);
    const Tensor u = Tensor::empty(stream, {8}, DType::f32);
    const std::vector<int64_t> sends = {2, 3};
    const std::vector<int64_t> recvs = {2, comm.rank() == 0 ? 2 : 3};
    comm.all_to_all_v(t, sends, u, recvs, stream)->wait(stream);
  });
  EXPECT_TRUE(contains(message, "rank 0 sends 3 elements to rank 1, which expects 2")) << message;
  message = error_of<BugError>(2, [](Communicator& comm, Stream&) {
    comm.split(comm.rank() == 0 ? std::vector<int>{0, 1} : std::vector<int>{1}, "odd");
  });
  EXPECT_TRUE(contains(message, "gave different lists")) << message;
}

TEST(ThreadWorld, AFailingRankWakesTheOthers) {
  std::atomic<int> num_woken{0};
  const std::string message = error_of<DataError>(4, [&](Communicator& comm, Stream& stream) {
    if (comm.rank() == 2) throw DataError({.what = "a bad file"});
    try {
      comm.barrier(stream)->wait(stream);
    } catch (const PeerError& error) {
      ++num_woken;
      EXPECT_TRUE(contains(error.what(), "a bad file"));
      throw;
    }
  });
  EXPECT_EQ(message, "a bad file");
  EXPECT_EQ(num_woken, 3);
}

TEST(ThreadWorld, AnExceptionWithACallUnderWayIsSafe) {
  const std::string message = error_of<DataError>(2, [](Communicator& comm, Stream& stream) {
    std::vector<float> mine(1000);  // gone before the others notice
    const Tensor t = Tensor::borrow(mine.data(), {1000}, DType::f32);
    const WorkHandle work = comm.all_reduce(t, ReduceOp::sum, stream);
    if (comm.rank() == 0) throw DataError({.what = "too bad"});
    work->wait(stream);
    comm.barrier(stream)->wait(stream);
  });
  EXPECT_EQ(message, "too bad");
}

// A delay holds the result back and leaves the host free; the call behind it starts later.
TEST(ThreadWorld, DelaysHoldResultsBack) {
  constexpr double kDelay = 0.05;
  std::atomic<int> num_asked{0};
  const auto delay = [&](const std::string& group, const CommCall& call) {
    ++num_asked;
    return group == "world" && call.op == CommOp::all_reduce ? kDelay : 0.0;
  };
  run_ranks(2,
            [&](Communicator& comm, Stream& stream) {
              const Tensor t = Tensor::empty(stream, {10}, DType::f32);
              const double start = monotonic_seconds();
              const WorkHandle first = comm.all_reduce(t, ReduceOp::max, stream);
              const WorkHandle second = comm.all_reduce(t, ReduceOp::max, stream);
              EXPECT_FALSE(second->done());
              second->wait(stream);
              EXPECT_GE(monotonic_seconds() - start, 2 * kDelay);
              EXPECT_TRUE(first->done());
              const std::vector<FlightRecord> records = comm.recorder().records();
              EXPECT_GE(records[1].started, records[0].finished);
            },
            {.delay_seconds = delay});
  EXPECT_EQ(num_asked, 4);  // two calls on two ranks
}

TEST(ThreadWorld, SixtyFourRanks) {
  run_ranks(64, [](Communicator& comm, Stream& stream) {
    const Tensor t = Tensor::empty(stream, {100}, DType::f32);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < 100; ++i) t.data<float>()[i] = static_cast<float>(comm.rank());
      comm.all_reduce(t, ReduceOp::sum, stream)->wait(stream);
      EXPECT_EQ(t.data<float>()[99], 63.0F * 64 / 2);
    }
    std::vector<int> row;
    for (int i = 0; i < 8; ++i) row.push_back(comm.rank() / 8 * 8 + i);
    const auto group = comm.split(row, "row" + std::to_string(comm.rank() / 8));
    t.data<float>()[0] = 1;
    group->all_reduce(t, ReduceOp::sum, stream)->wait(stream);
    EXPECT_EQ(t.data<float>()[0], 8.0F);
  });
}

}  // namespace
}  // namespace trireme
