// The emulated NCCL: what tests may say to it. Ranks are threads of one process, each with a device of its own.
//
// What holds as in the library: calls are queued in groups, the calls of a communicator run in order, the launches of
// the ranks are matched by order alone, communicators made with blocking = 0 take calls in the background (nothing is
// on the stream before ncclCommGetAsyncError has said ncclSuccess; a call before that is refused), a collective of no
// elements is nothing at all. Sums are formed in rank order, bf16 in fp32 rounded once; maxima pass over NaN.
//
// What is stricter. A send completes only with its receive. Pointers must be memory of the rank's device, for their
// whole length. Ranks whose launches don't fit get ncclInvalidUsage and a text that names both. When the launches of
// one communicator wait for each other in a circle, or nothing has moved anywhere for too long, all ranks that wait get
// ncclInternalError and a text that says who waits where. The launches concerned end then, having done nothing.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <string>

namespace emulator {

// Seconds without any operation finishing on any stream after which launches that wait count as stuck (60).
void set_nccl_patience(double seconds);

// Whether the others learn (ncclRemoteError) that a rank has aborted; default true. Else they wait.
void set_nccl_remote_errors(bool seen);

// Ends all launches of all communicators, as when a launcher ends all processes: ncclRemoteError with `reason`.
void nccl_abort_all(const std::string& reason);

// The launch after `skip` good ones on a communicator of this rank in it fails in the background with `result`.
void nccl_fail_next(int rank, ncclResult_t result, const std::string& text, int skip = 0);
// The next collective or transfer of this rank returns `result` itself; nothing is queued.
void nccl_refuse_next(int rank, ncclResult_t result, const std::string& text);

struct NcclCounters {
  int64_t communicators = 0;  // handles that exist
  int64_t launches = 0;       // that ran
};
NcclCounters nccl_counters();

}  // namespace emulator
