// Stands in for NVTX's header: ranges of a domain, recorded in tests/emulator/nvtx_log.h.
#pragma once

#include <cstddef>
#include <cstdint>

#define NVTX_VERSION 3
#define NVTX_EVENT_ATTRIB_STRUCT_SIZE static_cast<uint16_t>(sizeof(nvtxEventAttributes_t))
#define NVTX_MESSAGE_TYPE_ASCII 1
#define NVTX_PAYLOAD_TYPE_INT64 2

struct nvtxDomainRegistration;
using nvtxDomainHandle_t = nvtxDomainRegistration*;

struct nvtxEventAttributes_t {
  uint16_t version;
  uint16_t size;
  int32_t payloadType;
  union {
    int64_t llValue;
  } payload;
  int32_t messageType;
  union {
    const char* ascii;
  } message;
};

nvtxDomainHandle_t nvtxDomainCreateA(const char* name);
int nvtxDomainRangePushEx(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* attributes);
int nvtxDomainRangePop(nvtxDomainHandle_t domain);
