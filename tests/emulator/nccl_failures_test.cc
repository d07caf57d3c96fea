// What the nccl backend says and does when something goes wrong, and what the emulated NCCL sees.
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/ops/elementwise.h"
#include "parallel/comm/cuda/nccl_bootstrap.h"
#include "parallel/comm/cuda/nccl_group.h"
#include "tests/emulator/nccl_ranks.h"
#include "tests/parallel/comm_values.h"

namespace trireme {
namespace {

std::string text_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// What `call` fails with, at last.
std::string failure_of(const WorkHandle& work, Stream& stream) {
  while (!work->done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return text_of([&] { work->wait(stream); });
}

TEST(NcclFailures, CallsInAnotherOrderAreReportedOnAllRanks) {
  run_nccl_ranks(3, [](Communicator& comm, Stream& stream) {
    const Tensor small = make_blank(stream, 10, DType::f32);
    const Tensor large = make_blank(stream, 30, DType::f32);
    const WorkHandle work =
        comm.rank() == 2 ? comm.all_gather(small, large, stream) : comm.all_reduce(small, ReduceOp::sum, stream);
    const std::string text = failure_of(work, stream);
    EXPECT_NE(text.find("ncclAllReduce of 10 float32, sum"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 2 ncclAllGather of 10 float32"), std::string::npos) << text;
    // The message of ours around it.
    EXPECT_NE(text.find("rank " + std::to_string(comm.rank()) + " of group world"), std::string::npos) << text;
    EXPECT_NE(text.find("host "), std::string::npos) << text;
    EXPECT_THROW(work->wait(stream), MachineError) << "every time it is asked";
    const WorkHandle later = comm.barrier(stream);
    EXPECT_THROW(later->wait(stream), PeerError) << "a group that failed goes on failing";
    stream.synchronize();  // nothing is stuck
  });
}

TEST(NcclFailures, SizesAndDTypesThatDifferAreReported) {
  for (const bool dtype : {false, true}) {
    run_nccl_ranks(2, [&](Communicator& comm, Stream& stream) {
      const bool odd = comm.rank() == 1;
      const Tensor t = make_blank(stream, odd && !dtype ? 11 : 10, odd && dtype ? DType::i32 : DType::f32);
      const std::string text = failure_of(comm.all_reduce(t, ReduceOp::sum, stream), stream);
      EXPECT_NE(text.find(dtype ? "10 int32" : "11 float32"), std::string::npos) << text;
    });
  }
}

TEST(NcclFailures, TransfersOfDifferentSizesAreReportedOnBothSides) {
  run_nccl_ranks(2, [](Communicator& comm, Stream& stream) {
    const Tensor t = make_blank(stream, 10 + comm.rank(), DType::u8);
    const Transfer transfer = comm.rank() == 0 ? Transfer::send(t, 1) : Transfer::recv(t, 0);
    const std::string text = failure_of(comm.send_recv({transfer}, stream), stream);
    EXPECT_NE(text.find("ncclSend of 10 uint8"), std::string::npos) << text;
    EXPECT_NE(text.find("ncclRecv of 11 uint8"), std::string::npos) << text;
  });
}

TEST(NcclFailures, SendsThatWaitForEachOtherAreADeadlock) {
  run_nccl_ranks(2, [](Communicator& comm, Stream& stream) {
    const Tensor t = make_blank(stream, 10, DType::u8);
    const int other = 1 - comm.rank();
    const WorkHandle sent = comm.send_recv({Transfer::send(t, other)}, stream);
    const WorkHandle received = comm.send_recv({Transfer::recv(t, other)}, stream);
    const std::string text = failure_of(sent, stream);
    EXPECT_NE(text.find("deadlock"), std::string::npos) << text;
    EXPECT_NE(text.find("ncclSend of 10 uint8 to 1"), std::string::npos) << text;
    EXPECT_NE(text.find("ncclSend of 10 uint8 to 0"), std::string::npos) << text;
    EXPECT_THROW(received->wait(stream), Error);
  });
}

// Two groups, entered in opposite order, the second behind the first on the rank's own stream.
TEST(NcclFailures, GroupsInOppositeOrderAreADeadlock) {
  emulator::set_nccl_patience(0.5);
  run_nccl_ranks(2, [](Communicator& comm, Stream& stream) {
    const std::vector<int> all = {0, 1};
    const auto a = comm.split(all, "a");
    const auto b = comm.split(all, "b");
    const Tensor t = make_blank(stream, 10, DType::f32);
    Communicator& first = comm.rank() == 0 ? *a : *b;
    Communicator& second = comm.rank() == 0 ? *b : *a;
    const WorkHandle work = first.all_reduce(t, ReduceOp::sum, stream);
    work->wait(stream);
    second.all_reduce(t, ReduceOp::sum, stream)->wait(stream);
    const std::string text = failure_of(work, stream);
    EXPECT_NE(text.find("deadlock"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 0 of a"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 1 of b"), std::string::npos) << text;
    stream.synchronize();
  });
  emulator::set_nccl_patience(60);
}

TEST(NcclFailures, AnErrorOfNcclNamesTheRankAndTheCall) {
  emulator::nccl_fail_next(/*rank=*/1, ncclSystemError, "the network is down", /*skip=*/1);
  std::barrier<> both(2);
  run_nccl_ranks(2, [&](Communicator& comm, Stream& stream) {
    const Tensor t = make_blank(stream, 10, DType::f32);
    const WorkHandle good = comm.all_reduce(t, ReduceOp::sum, stream);
    EXPECT_EQ(failure_of(good, stream), "nothing was thrown");
    both.arrive_and_wait();
    const WorkHandle work = comm.all_reduce(t, ReduceOp::max, stream);
    const std::string text = failure_of(work, stream);
    if (comm.rank() == 1) {
      EXPECT_NE(text.find("NCCL failed in all_reduce max of f32[10], call 1"), std::string::npos) << text;
      EXPECT_NE(text.find("unhandled system error: the network is down"), std::string::npos) << text;
      EXPECT_NE(text.find("rank 1 of group world (rank 1 of the world)"), std::string::npos) << text;
      EXPECT_THROW(work->wait(stream), MachineError);
    } else {
      EXPECT_THROW(work->wait(stream), PeerError) << text;
    }
  });
}

// The same where NCCL's function itself says no, within a group of calls.
TEST(NcclFailures, ACallThatIsRefusedNamesTheRankAndTheCall) {
  emulator::nccl_refuse_next(/*rank=*/1, ncclInternalError, "proxy call failed");
  run_nccl_ranks(2, [&](Communicator& comm, Stream& stream) {
    const Tensor t = make_blank(stream, 10, DType::f32);
    const WorkHandle work = comm.all_reduce(t, ReduceOp::sum, stream);
    const std::string text = failure_of(work, stream);
    if (comm.rank() == 1) {
      for (const char* part :
           {"NCCL failed in all_reduce sum of f32[10], call 0, which calls ncclAllReduce", "internal error",
            "proxy call failed", "host ", "rank 1 of group world (rank 1 of the world)", "NCCL_DEBUG=INFO"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in: " << text;
      }
      EXPECT_THROW(work->wait(stream), MachineError);
    } else {
      EXPECT_THROW(work->wait(stream), PeerError) << text;
    }
  });
}

TEST(NcclFailures, ALateRankEndsTheWait) {
  emulator::set_nccl_remote_errors(false);
  std::atomic<bool> gave_up{false};
  run_nccl_ranks(2,
                 [&](Communicator& comm, Stream& stream) {
                   const Tensor t = make_blank(stream, 10, DType::f32);
                   if (comm.rank() == 0) {
                     const WorkHandle work = comm.all_reduce(t, ReduceOp::sum, stream);
                     work->wait(stream);    // doesn't wait
                     stream.synchronize();  // the watching thread frees the GPU
                     const std::string text = failure_of(work, stream);
                     EXPECT_NE(text.find("all_reduce sum of f32[10], call 0 on group world is unfinished after"),
                               std::string::npos)
                         << text;
                     EXPECT_THROW(work->wait(stream), PeerError);
                     gave_up.store(true);
                   } else {
                     while (!gave_up.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                   }
                 },
                 {.call_seconds = 0.3, .watch_seconds = 0.02});
  emulator::set_nccl_remote_errors(true);
}

TEST(NcclFailures, ARankThatDoesNotJoinIsReported) {
  emulator::set_num_devices(1);
  {
    TestGpu gpu(0);
    FlightRecorder recorder(0);
    const std::string text = text_of([&] {
      ncclUniqueId id;
      ncclGetUniqueId(&id);
      cuda::NcclGroup group(id, {.group = "lonely", .rank = 0, .size = 2},
                            cuda::make_stream(0, *gpu.allocator, *gpu.pinned, gpu.pool), recorder,
                            {.init_seconds = 0.1});
    });
    EXPECT_NE(text.find("NCCL failed in ncclCommInitRankConfig (found no end after 0 s: another rank is late"),
              std::string::npos)
        << text;
  }
  emulator::set_num_devices(0);
}

TEST(NcclFailures, TwoRanksOnOneGpuAreRefused) {
  emulator::set_num_devices(2);
  const std::string text = text_of([] {
    run_thread_ranks(3, [](Communicator& world) {
      TestGpu gpu(world.rank() == 1 ? 1 : 0);
      const std::vector<int> all = {0, 1, 2};
      make_nccl_communicator(world.split(all, "hosts"), "world", *gpu.stream);
    });
  });
  emulator::set_num_devices(0);
  EXPECT_NE(text.find("ranks 0 and 2 of group world would share GPU"), std::string::npos) << text;
  EXPECT_NE(text.find("parallel.backend: mpi"), std::string::npos) << text;
}

TEST(NcclFailures, HostTensorsAreRefused) {
  run_nccl_ranks(1, [](Communicator& comm, Stream& stream) {
    float value = 1;
    EXPECT_THROW(comm.all_reduce(Tensor::borrow(&value, {1}, DType::f32), ReduceOp::sum, stream), BugError);
  });
}

// `wait` queues a wait and returns; the call's tensors live until then, whoever drops them.
TEST(NcclAsynchrony, WaitDoesNotHoldUpTheHost) {
  std::atomic<bool> waited{false};
  run_nccl_ranks(2, [&](Communicator& comm, Stream& stream) {
    Tensor t = make(stream, 1000, DType::f32, [&](int64_t) { return comm.rank() + 1; });
    if (comm.rank() == 1) {
      while (!waited.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const WorkHandle work = comm.all_reduce(t, ReduceOp::sum, stream);
    if (comm.rank() == 0) {
      EXPECT_FALSE(work->done());
      work->wait(stream);
      EXPECT_FALSE(work->done()) << "the other rank has not called";
      waited.store(true);
    } else {
      work->wait(stream);
    }
    expect_values(
        stream, t, [](int64_t) { return 3; }, "all_reduce");
    EXPECT_TRUE(work->done());
  });
}

TEST(NcclAsynchrony, ACpuStreamMakesTheHostWait) {
  run_nccl_ranks(2, [](Communicator& comm, Stream& stream) {
    TestDevice host;
    const Tensor t = make(stream, 1000, DType::f32, [&](int64_t) { return comm.rank() + 1; });
    const WorkHandle work = comm.all_reduce(t, ReduceOp::sum, stream);
    work->wait(host.stream);
    EXPECT_TRUE(work->done());
  });
}

TEST(NcclAsynchrony, DroppedTensorsLiveUntilTheCallIsOver) {
  run_nccl_ranks(2, [](Communicator& comm, Stream& stream) {
    Tensor t = make_blank(stream, 1000, DType::f32);
    const int64_t before = stream.allocator().stats().total_live_bytes;
    const WorkHandle work = comm.all_reduce(t, ReduceOp::sum, stream);
    t = {};
    EXPECT_EQ(stream.allocator().stats().total_live_bytes, before);
    work->wait(stream);
    EXPECT_EQ(stream.allocator().stats().total_live_bytes, before - 4000) << "what comes next is behind the call";
    stream.synchronize();
  });
}

TEST(NcclAsynchrony, ACallInsideACaptureIsRefused) {
  run_nccl_ranks(1, [](Communicator& comm, Stream& stream) {
    const Tensor t = make_blank(stream, 10, DType::f32);
    cudaStream_t handle = cuda::as_cuda(stream).handle();
    cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal);
    EXPECT_THROW(comm.all_reduce(t, ReduceOp::sum, stream), BugError);
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(handle, &graph);
    cudaGraphDestroy(graph);
  });
}

TEST(NcclOptions, DeterministicNarrowsTheChoiceOfAlgorithms) {
  ::unsetenv("NCCL_ALGO");
  cuda::pin_algorithms();
  EXPECT_STREQ(::getenv("NCCL_ALGO"), "Ring,Tree");
  ::setenv("NCCL_ALGO", "Tree", 1);
  cuda::pin_algorithms();
  EXPECT_STREQ(::getenv("NCCL_ALGO"), "Tree") << "the user's choice stands";
  ::unsetenv("NCCL_ALGO");
}

}  // namespace
}  // namespace trireme
