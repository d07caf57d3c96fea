// The emulated NCCL's handles, and what tests say to it.
#include "tests/emulator/nccl.h"

#include <atomic>
#include <cstring>
#include <map>
#include <vector>

#include "tests/emulator/nccl_handle.h"
#include "tests/emulator/stream.h"

using emulator::check_ready;
using emulator::Clique;
using emulator::refuse;
using emulator::set_last_error;

namespace {

struct Fault {
  ncclResult_t result = ncclSuccess;
  std::string text;
  int skip = 0;
};

struct Library {
  emulator::HiddenMutex mutex;
  std::map<std::string, Clique*> cliques;  // by id
  std::map<int, Fault> faults;             // by rank
  std::map<int, Fault> refusals;           // likewise
  int64_t num_ids = 0;
};

Library& library() {
  static Library* instance = new Library;
  return *instance;
}

std::atomic<int64_t> num_communicators{0};
std::atomic<int64_t> num_launches{0};
std::atomic<bool> remote_errors{true};

}  // namespace

namespace emulator {

void set_nccl_remote_errors(bool seen) { remote_errors.store(seen); }

void nccl_abort_all(const std::string& reason) {
  for (Clique* clique : all_cliques()) clique->fail(ncclRemoteError, reason);
}

void nccl_fail_next(int rank, ncclResult_t result, const std::string& text, int skip) {
  emulator::NcclLock lock(library().mutex);
  library().faults[rank] = {result, text, skip};
}

void nccl_refuse_next(int rank, ncclResult_t result, const std::string& text) {
  emulator::NcclLock lock(library().mutex);
  library().refusals[rank] = {result, text, 0};
}

ncclResult_t refused_by_order(ncclComm_t comm) {
  Fault refusal;
  {
    emulator::NcclLock lock(library().mutex);
    const auto found = library().refusals.find(comm->rank);
    if (found == library().refusals.end()) return ncclSuccess;
    refusal = found->second;
    library().refusals.erase(found);
  }
  return refuse(refusal.result, refusal.text);
}

bool fails_by_order(ncclComm_t comm) {
  emulator::NcclLock lock(library().mutex);
  const auto fault = library().faults.find(comm->rank);
  if (fault == library().faults.end() || fault->second.skip-- > 0) return false;
  comm->clique->fail_rank(comm->rank, fault->second.result, fault->second.text);
  library().faults.erase(fault);
  return true;
}

void count_launch() { num_launches.fetch_add(1); }

NcclCounters nccl_counters() { return {num_communicators.load(), num_launches.load()}; }

}  // namespace emulator

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  emulator::NcclLock lock(library().mutex);
  std::memset(id, 0, sizeof *id);
  const std::string text = "emulated " + std::to_string(++library().num_ids);
  std::memcpy(id->internal, text.c_str(), text.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  *comm = nullptr;
  const std::string key(id.internal, strnlen(id.internal, sizeof id.internal));
  if (nranks < 1 || rank < 0 || rank >= nranks) return refuse(ncclInvalidArgument, "invalid rank");
  if (!key.starts_with("emulated ")) return refuse(ncclInvalidArgument, "this is no id of ncclGetUniqueId");
  if (config != nullptr && (config->size != sizeof(ncclConfig_t) || config->magic != 0xcafebeef)) {
    return refuse(ncclInvalidArgument, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
  }
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return refuse(ncclUnhandledCudaError, "no device");
  Clique* clique = nullptr;
  {
    emulator::NcclLock lock(library().mutex);
    Clique*& place = library().cliques[key];
    const bool named = config != nullptr && config->commName != nullptr;
    if (place == nullptr) place = emulator::make_clique(nranks, named ? config->commName : key);
    clique = place;
  }
  if (clique->size() != nranks) return refuse(ncclInvalidUsage, "the ranks disagree on their number");
  if (const std::string wrong = clique->join(rank, device); !wrong.empty()) return refuse(ncclInvalidUsage, wrong);
  *comm = new ncclComm;
  num_communicators.fetch_add(1);
  (*comm)->clique = clique;
  (*comm)->rank = rank;
  (*comm)->device = device;
  (*comm)->blocking = config == nullptr || config->blocking != 0;
  if (!(*comm)->blocking) return ncclInProgress;
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) ncclCommGetAsyncError(*comm, &state);
  return state;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "comm argument is NULL");
  const auto [failure, text] = comm->clique->failure(comm->rank);
  *error = failure;
  if (failure != ncclSuccess) {
    set_last_error(text);
    return ncclSuccess;
  }
  if (!comm->joined) {
    *error = ncclInProgress;  // at least once
    comm->joined = comm->clique->complete();
  } else if (comm->background.waiting) {
    *error = ncclInProgress;
    if (--comm->background.num_looks > 0) return ncclSuccess;
    comm->background.waiting = false;
    *error = emulator::start(comm, comm->background.launch, comm->background.stream);
  } else if (comm->finalizing && comm->clique->outstanding(comm->rank) > 0) {
    *error = ncclInProgress;
  }
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (const ncclResult_t result = check_ready(comm); result != ncclSuccess) return result;
  comm->finalizing = true;
  if (!comm->blocking) return ncclInProgress;
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) ncclCommGetAsyncError(comm, &state);
  return state;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  if (comm->background.waiting) return refuse(ncclInvalidUsage, "a launch is still in the background");
  while (comm->clique->outstanding(comm->rank) > 0 && comm->clique->failure(comm->rank).first == ncclSuccess) {
  }
  num_communicators.fetch_sub(1);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  comm->clique->abort(comm->rank, remote_errors.load());
  num_communicators.fetch_sub(1);
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}

}  // extern "C"
