#include <nvtx3/nvToolsExt.h>

#include <atomic>
#include <mutex>

#include "tests/emulator/nvtx_log.h"

struct nvtxDomainRegistration {
  std::string name;
};

namespace emulator {
namespace {

std::atomic<bool> recording{false};
std::mutex mutex;
std::vector<NvtxRange> log;
thread_local std::vector<int64_t> open_ranges;  // places in the log, -1 for ranges that aren't in it

}  // namespace

void record_nvtx() {
  const std::lock_guard lock(mutex);
  log.clear();
  recording = true;
}

std::vector<NvtxRange> take_nvtx() {
  const std::lock_guard lock(mutex);
  recording = false;
  return std::move(log);
}

}  // namespace emulator

nvtxDomainHandle_t nvtxDomainCreateA(const char* name) { return new nvtxDomainRegistration{name}; }

int nvtxDomainRangePushEx(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* attributes) {
  using namespace emulator;
  const int depth = static_cast<int>(open_ranges.size());
  int64_t place = -1;
  if (recording) {
    const std::lock_guard lock(mutex);
    place = static_cast<int64_t>(log.size());
    const bool has_bytes = attributes->payloadType == NVTX_PAYLOAD_TYPE_INT64;
    log.push_back({domain->name, attributes->message.ascii, has_bytes ? attributes->payload.llValue : -1, depth});
  }
  open_ranges.push_back(place);
  return depth;
}

int nvtxDomainRangePop(nvtxDomainHandle_t) {
  if (emulator::open_ranges.empty()) return -1;
  emulator::open_ranges.pop_back();
  return static_cast<int>(emulator::open_ranges.size());
}
