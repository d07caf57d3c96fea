#include "parallel/comm/cuda/device_copies.h"

#include "core/device/cuda/check.h"
#include "core/device/cuda/cuda_stream.h"

namespace trireme::cuda {

namespace {

void queue(Stream& stream, const Tensor& from, const Tensor& to, cudaMemcpyKind kind) {
  TRIREME_CHECK(from.bytes() == to.bytes());
  if (from.bytes() == 0) return;
  CudaStream& gpu = as_cuda(stream);
  gpu.activate();
  check(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(from.bytes()), kind, gpu.handle()),
        "copy between the host and " + stream.device().str());
}

}  // namespace

void queue_download(Stream& stream, const Tensor& from_device, const Tensor& to_host) {
  queue(stream, from_device, to_host, cudaMemcpyDeviceToHost);
}

void queue_upload(Stream& stream, const Tensor& from_host, const Tensor& to_device) {
  queue(stream, from_host, to_device, cudaMemcpyHostToDevice);
}

}  // namespace trireme::cuda
