#include "core/trace/nvtx.h"

#include <nvtx3/nvToolsExt.h>

namespace trireme::nvtx {

namespace {

// NVTX has one table of domains for the process; a handle to ours is all that is kept.
nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t handle = nvtxDomainCreateA("trireme");
  return handle;
}

}  // namespace

void push(const char* name, int64_t bytes) {
  nvtxEventAttributes_t attributes = {};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  if (bytes >= 0) {
    attributes.payloadType = NVTX_PAYLOAD_TYPE_INT64;
    attributes.payload.llValue = bytes;
  }
  nvtxDomainRangePushEx(domain(), &attributes);
}

void pop() { nvtxDomainRangePop(domain()); }

}  // namespace trireme::nvtx
