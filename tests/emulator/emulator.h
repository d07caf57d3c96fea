// What a test may say to the emulated CUDA runtime, and ask of it. Thread-safe, but settings are meant to be changed
// while no stream has work. Without any call the emulator has no device, so that programs stay CPU programs.
//
// For whole programs the environment gives first values: TRIREME_EMULATED_GPUS=N, TRIREME_EMULATOR_MEMORY=MiB,
// TRIREME_EMULATOR_SHARED=KiB, TRIREME_EMULATOR_ORDER=forward|reversed|SEED, TRIREME_EMULATOR_WORKERS=N,
// TRIREME_EMULATOR_RACES=streams|blocks.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>

namespace emulator {

// Devices
inline constexpr int kMaxDevices = 16;
void set_num_devices(int count);
// What cudaDriverGetVersion says, 13000 for CUDA 13.0. 0: no driver. Older than 13000: too old for this runtime; both
// make cudaGetDeviceCount return cudaErrorInsufficientDriver.
void set_driver_version(int version);
// Of each device, 4 GiB at first. More is cudaErrorMemoryAllocation.
void set_memory_limit(int64_t bytes);
// Shared memory that a block can ask for, at most and at first 227 KiB, as on sm_90; 99 KiB on sm_86, sm_89 and sm_120.
inline constexpr int kMostSharedBytes = 227 << 10;
void set_shared_limit(int bytes);

// Kernels
// The order in which the blocks of a grid, and the threads of a block between two barriers, run.
enum class Order { forward, reversed, seeded };
void set_order(Order order, uint64_t seed = 1);
// Host threads that share the blocks of one launch: 1 or 2 (the default). Launches of less than `least_threads` CUDA
// threads run on one.
void set_workers(int count, int64_t least_threads = 4096);
// Under ThreadSanitizer: `streams` finds what two streams, host and stream or two blocks do at once; `blocks` also what
// two threads of one block do without __syncthreads or __syncwarp between them, 10 times slower. Nothing elsewhere.
enum class Races { streams, blocks };
void set_races(Races races);

// Errors
// The next call of the runtime's function `call` ("cudaMalloc"; "cudaLaunchKernelEx" for launches) after `skip` good
// ones does nothing and returns `error`.
void fail_next(const std::string& call, cudaError_t error, int skip = 0);
// As if a kernel had died: every later call that concerns the device returns `error`, until clear_errors.
void fail_device(int device, cudaError_t error);
void clear_errors();

using Handler = std::function<void(const std::string& message)>;
// Called, on a stream's thread, when device code does what it must not: threads of a block that wait for each other in
// vain, lanes that disagree, a library call in the wrong order. The message names kernel, block and threads. Without a
// handler the program prints the message and aborts; with one the operation is given up and the device is left with
// cudaErrorLaunchFailure. An empty handler takes it back.
void set_failure_handler(Handler handler);
// Called when a host thread has waited for `seconds` in which no stream finished any operation (60; default: prints to
// stderr). The message says what each stream is doing. The wait goes on.
void set_stall_handler(double seconds, Handler handler);

// Tallies since the program's start.
struct Counters {
  int64_t launches = 0;
  int64_t operations = 0;  // all that ran on streams, launches too
  int64_t streams = 0;     // that exist
  int64_t events = 0;      // that exist
  int64_t graphs = 0;      // that exist, with those made executable
  int64_t graph_launches = 0;
  int64_t host_waits = 0;   // calls that make the host wait for a stream: synchronisations, copies to pageable memory
  int64_t frees = 0;        // calls of cudaFree, which wait for the device; how many there are at the end of a program
                            // depends on how much memory waited for another stream when more was asked for
  int64_t allocations = 0;  // of device memory, that exist
  int64_t allocated_bytes = 0;  // by cudaMalloc, now
  int64_t pinned_bytes = 0;     // by cudaHostAlloc, now
  int64_t profiler_starts = 0;
  int64_t profiler_stops = 0;
};
Counters counters();

// How device memory is kept from host threads.
enum class Protection {
  keys,   // any access by a thread that isn't a stream's faults
  pages,  // the CPU has no protection keys: an access faults unless some stream has work
};
Protection protection();

}  // namespace emulator
