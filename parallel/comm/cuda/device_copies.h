// Copies between a GPU and pinned host memory that hold up nobody. No CUDA header is needed to include this one.
#pragma once

#include "core/tensor/tensor.h"

namespace trireme::cuda {

// Queue a copy on `stream`, between tensors of equal size on its GPU and in its host_allocator()'s memory; both live until
// it is done.
void queue_download(Stream& stream, const Tensor& from_device, const Tensor& to_host);
void queue_upload(Stream& stream, const Tensor& from_host, const Tensor& to_device);

}  // namespace trireme::cuda
