// One data race on purpose, so that we know that ThreadSanitizer sees races of the thread communicator: rank 0
// reads a tensor that a broadcast fills, without waiting for the call. With --wait it waits, and nothing is wrong.
//
// Why it shows in every run: rank 1 makes its call only after rank 0 has made its own, so rank 1's thread
// copies; rank 0 reads until it sees the copied value and takes no lock meanwhile. The copy and the reads are
// therefore never ordered, on any number of cores.
#include <atomic>
#include <cstdio>
#include <string_view>
#include <thread>

#include "parallel/comm/thread_world.h"
#include "tests/parallel/comm_conformance.h"

using namespace trireme;

int main(int argc, char** argv) {
  const bool waits = argc > 1 && std::string_view(argv[1]) == "--wait";
  std::atomic<bool> rank_0_called = false;
  TestDevice devices[2];
  int32_t seen = 0;
  run_thread_ranks(2, [&](Communicator& comm) {
    Stream& stream = devices[comm.rank()].stream;
    const Tensor tensor = Tensor::empty(stream, {1}, DType::i32);
    tensor.data<int32_t>()[0] = comm.rank();
    if (comm.rank() == 1) {
      while (!rank_0_called) std::this_thread::yield();
      comm.broadcast(tensor, /*root=*/1, stream)->wait(stream);
      return;
    }
    const WorkHandle work = comm.broadcast(tensor, /*root=*/1, stream);
    rank_0_called = true;
    if (waits) work->wait(stream);
    const volatile int32_t* value = tensor.data<int32_t>();
    while ((seen = *value) == 0) std::this_thread::yield();  // the race
    work->wait(stream);
  });
  std::printf("rank 0 saw %d\n", seen);
  return seen == 1 ? 0 : 1;
}
