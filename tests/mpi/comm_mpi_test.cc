// The conformance cases on the mpi backend, and what is its own. Started by mpirun; every rank runs every
// case, in the same order. Arguments beside GoogleTest's:
//   --one-rank-per-node   take the way between nodes
//   --chunk-bytes=N       small pieces, so that small messages take many
//   --gpu                 tensors on a GPU: of the local rank, or shared where there are fewer GPUs
//   --abort               no cases: the last rank fails while the others wait
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "parallel/comm/mpi_runtime.h"
#include "tests/parallel/comm_conformance.h"

namespace trireme {
namespace {

// What the cases share; set by main before they run.
struct World {
  MpiRuntime* runtime = nullptr;
  FlightRecorder* recorder = nullptr;
  Communicator* comm = nullptr;
  Stream* stream = nullptr;
  bool one_rank_per_node = false;
};
World& world() {
  static World instance;
  return instance;
}

// An exception on one rank would leave the others waiting.
void run_or_abort(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", world().runtime->rank(), error.what());
    world().runtime->abort(ExitCode::bug);
  }
}

class MpiConformance : public ::testing::TestWithParam<size_t> {};

TEST_P(MpiConformance, Holds) {
  run_or_abort([&] { conformance_cases()[GetParam()].run(*world().comm, *world().stream); });
}

INSTANTIATE_TEST_SUITE_P(Comm, MpiConformance, ::testing::Range(size_t{0}, conformance_cases().size()),
                         [](const auto& test) { return conformance_cases()[test.param].name; });

TEST(MpiLarge, Holds) {
  run_or_abort([&] { large_conformance_cases()[0].run(*world().comm, *world().stream); });
}

std::unique_ptr<Communicator> fresh_group() {
  std::vector<int> all;
  for (int r = 0; r < world().comm->size(); ++r) all.push_back(r);
  return world().comm->split(all, "fresh");
}

// A send is not done before its receive is posted, and its rank is free meanwhile.
TEST(MpiTransfers, SendWaitsForItsReceive) {
  if (world().comm->size() < 2) GTEST_SKIP() << "needs two ranks";
  run_or_abort([&] {
    Communicator& comm = *world().comm;
    Stream& stream = *world().stream;
    const auto group = fresh_group();
    const Tensor t = Tensor::empty(stream, {10}, DType::f32);
    if (comm.rank() == 0) {
      const WorkHandle work = group->send_recv({Transfer::send(t, 1)}, stream);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_FALSE(work->done());
      comm.barrier(stream)->wait(stream);
      work->wait(stream);
      EXPECT_TRUE(work->done());
    } else {
      comm.barrier(stream)->wait(stream);
      if (comm.rank() == 1) group->send_recv({Transfer::recv(t, 0)}, stream)->wait(stream);
    }
  });
}

TEST(MpiMistakes, SizesThatDifferFailOnBothSides) {
  if (world().comm->size() < 2) GTEST_SKIP() << "needs two ranks";
  run_or_abort([&] {
    Communicator& comm = *world().comm;
    Stream& stream = *world().stream;
    const auto group = fresh_group();
    if (comm.rank() < 2) {
      const Tensor t = Tensor::empty(stream, {10 + comm.rank()}, DType::f32);
      const WorkHandle work =
          group->send_recv({comm.rank() == 0 ? Transfer::send(t, 1) : Transfer::recv(t, 0)}, stream);
      EXPECT_THROW(work->wait(stream), BugError);
      EXPECT_THROW(group->barrier(stream)->wait(stream), PeerError) << "a group that failed goes on failing";
    }
    comm.barrier(stream)->wait(stream);  // other groups are not touched
  });
}

TEST(MpiMistakes, DifferentCollectivesFailOnAllRanksOfANode) {
  Communicator& comm = *world().comm;
  if (comm.size() < 2 || world().one_rank_per_node) GTEST_SKIP() << "needs two ranks of a node";
  run_or_abort([&] {
    Stream& stream = *world().stream;
    const auto group = fresh_group();
    const Tensor t = Tensor::empty(stream, {comm.rank() == 1 ? 12 : 10}, DType::f32);
    const WorkHandle work = group->all_reduce(t, ReduceOp::sum, stream);
    EXPECT_THROW(work->wait(stream), BugError);
    comm.barrier(stream)->wait(stream);
  });
}

// The communication thread sleeps while the others are late.
TEST(MpiEngine, WaitingCostsNoProcessorTime) {
  if (world().comm->size() < 2) GTEST_SKIP() << "needs two ranks";
  run_or_abort([&] {
    Communicator& comm = *world().comm;
    Stream& stream = *world().stream;
    const auto cpu_seconds = [] {
      rusage usage{};
      ::getrusage(RUSAGE_SELF, &usage);
      const auto seconds = [](timeval t) {
        return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
      };
      return seconds(usage.ru_utime) + seconds(usage.ru_stime);
    };
    comm.barrier(stream)->wait(stream);
    const double before = cpu_seconds();
    if (comm.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(400));
    comm.barrier(stream)->wait(stream);
    EXPECT_LT(cpu_seconds() - before, 0.1);
  });
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  using namespace trireme;
  ::testing::InitGoogleTest(&argc, argv);
  MpiOptions options;
  bool aborts = false;
  bool on_gpu = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--one-rank-per-node") options.one_rank_per_node = true;
    if (arg == "--abort") aborts = true;
    if (arg == "--gpu") on_gpu = true;
    if (arg.starts_with("--chunk-bytes=")) options.chunk_bytes = std::stoll(arg.substr(14));
  }
  MpiRuntime runtime(options);
  FlightRecorder recorder(runtime.rank());
  TestDevice device;
  std::unique_ptr<TestGpu> gpu;
  if (on_gpu) {
    if (cuda::num_devices() == 0) {
      std::fprintf(stderr, "no GPU: %s\n", cuda::why_no_devices().c_str());
      return 1;
    }
    gpu = std::make_unique<TestGpu>(runtime.local_rank() % cuda::num_devices());
  }
  const auto comm = runtime.world(recorder);
  world() = {.runtime = &runtime,
             .recorder = &recorder,
             .comm = comm.get(),
             .stream = gpu ? gpu->stream.get() : &device.stream,
             .one_rank_per_node = options.one_rank_per_node};
  if (aborts) {
    const Tensor t = Tensor::empty(device.stream, {1000}, DType::f32);
    if (runtime.rank() == runtime.size() - 1) runtime.abort(ExitCode::numbers);
    comm->all_reduce(t, ReduceOp::sum, device.stream)->wait(device.stream);
    return 0;
  }
  // One rank tells how it goes; the others only what fails.
  if (runtime.rank() != 0) {
    struct Quiet : ::testing::EmptyTestEventListener {
      void OnTestPartResult(const ::testing::TestPartResult& result) override {
        if (!result.failed()) return;
        std::fprintf(stderr, "%s:%d: %s\n", result.file_name(), result.line_number(), result.message());
      }
    };
    ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new Quiet);
  }
  return RUN_ALL_TESTS();
}
