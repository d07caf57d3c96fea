// Speed of the mpi backend beside the library's own, in one run, by turns:
//   mpirun -np 2 --bind-to none build/tests/comm_speed [million elements = 124] [rounds = 5] [chunk KiB = 512]
// Prints for each collective the median seconds and bytes per second of the tensor; for all_reduce also
// MPI_Allreduce's; and what a waiting and a busy communication thread cost a computing one.
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/device/thread_pool.h"
#include "parallel/comm/mpi_runtime.h"

namespace trireme {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Arithmetic that stays in registers: its speed is the share of a core that this thread gets.
double compute_seconds() {
  const double start = monotonic_seconds();
  double x = 1.0;
  for (int i = 0; i < 60000000; ++i) x = x * 0.999999 + 1e-9;
  if (!std::isfinite(x)) std::puts("?");
  return monotonic_seconds() - start;
}

void run(int64_t n, int rounds, int64_t chunk_bytes) {
  MpiRuntime runtime({.chunk_bytes = chunk_bytes});
  FlightRecorder recorder(runtime.rank());
  CpuAllocator allocator;
  ThreadPool pool(1);
  CpuStream stream(allocator, pool);
  const auto comm = runtime.world(recorder);
  const int size = comm->size();
  const bool prints = comm->rank() == 0;
  const Tensor a = Tensor::empty(stream, {n / size * size}, DType::f32);
  const Tensor b = Tensor::empty(stream, {n / size * size}, DType::f32);
  std::fill_n(a.data<float>(), a.numel(), 0.5F);
  std::fill_n(b.data<float>(), b.numel(), 0.5F);
  const Tensor part = b.flat_slice(0, {n / size});
  const auto measure = [&](const char* name, const std::function<void()>& call) {
    call();
    std::vector<double> times;
    for (int i = 0; i < rounds; ++i) {
      comm->barrier(stream)->wait(stream);
      const double start = monotonic_seconds();
      call();
      comm->barrier(stream)->wait(stream);
      times.push_back(monotonic_seconds() - start);
    }
    const double rate = 1e-9 * static_cast<double>(a.bytes()) / median(times);
    if (prints) std::printf("%-32s %8.4f s  %6.2f GB/s\n", name, median(times), rate);
    return median(times);
  };
  const double ours = measure("all_reduce", [&] { comm->all_reduce(a, ReduceOp::max, stream)->wait(stream); });
  // The communication thread sleeps meanwhile, so MPI is used by one thread at a time.
  const double plain = measure("MPI_Allreduce", [&] {
    MPI_Allreduce(MPI_IN_PLACE, a.raw(), static_cast<int>(a.numel()), MPI_FLOAT, MPI_MAX, MPI_COMM_WORLD);
  });
  if (prints) std::printf("%-32s %8.2f x\n", "MPI_Allreduce / all_reduce", plain / ours);
  measure("reduce_scatter", [&] { comm->reduce_scatter(a, part, ReduceOp::max, stream)->wait(stream); });
  measure("all_gather", [&] { comm->all_gather(part, a, stream)->wait(stream); });
  measure("all_to_all", [&] { comm->all_to_all(a, b, stream)->wait(stream); });
  measure("broadcast", [&] { comm->broadcast(a, 0, stream)->wait(stream); });
  if (size >= 2) {
    measure("send 0 -> 1", [&] {
      if (comm->rank() == 0) comm->send_recv({Transfer::send(a, 1)}, stream)->wait(stream);
      if (comm->rank() == 1) comm->send_recv({Transfer::recv(a, 0)}, stream)->wait(stream);
    });
  }
  const Tensor one = a.flat_slice(0, {1});
  measure("1000 all_reduces of one element", [&] {
    for (int i = 0; i < 1000; ++i) comm->all_reduce(one, ReduceOp::max, stream)->wait(stream);
  });

  // Compute alone, beside a call that waits for a late rank, beside an all_reduce.
  std::vector<double> alone;
  std::vector<double> waiting;
  std::vector<double> busy;
  std::vector<double> beside;  // the all_reduce itself
  for (int i = 0; i < rounds; ++i) {
    comm->barrier(stream)->wait(stream);
    alone.push_back(compute_seconds());
    comm->barrier(stream)->wait(stream);
    const WorkHandle late = comm->rank() == 0 ? nullptr : comm->barrier(stream);
    waiting.push_back(compute_seconds());
    if (late == nullptr) comm->barrier(stream)->wait(stream);
    if (late != nullptr) late->wait(stream);
    comm->barrier(stream)->wait(stream);
    const WorkHandle work = comm->all_reduce(a, ReduceOp::max, stream);
    busy.push_back(compute_seconds());
    work->wait(stream);
    const FlightRecord record = recorder.records().back();
    beside.push_back(record.finished - record.started);
  }
  if (comm->rank() == size - 1) {
    std::printf(
        "compute: alone %.4f s; beside a waiting call %.4f s (%.3f x); beside all_reduce %.4f s "
        "(+ %.4f s), which takes %.4f s\n",
        median(alone), median(waiting), median(waiting) / median(alone), median(busy), median(busy) - median(alone),
        median(beside));
  }
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  const int64_t millions = argc > 1 ? std::stoll(argv[1]) : 124;
  const int rounds = argc > 2 ? std::stoi(argv[2]) : 5;
  const int64_t chunk_kib = argc > 3 ? std::stoll(argv[3]) : 512;
  trireme::run(millions * 1000000, rounds, chunk_kib << 10);
  return 0;
}
