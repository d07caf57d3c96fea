#include "parallel/comm/device_staging.h"

#include <numeric>

#include "core/device/cuda/cuda_device.h"
#include "parallel/comm/cuda/device_copies.h"

namespace trireme {

namespace {

std::unique_ptr<Stream> stream_like(Stream& stream) {
  return cuda::make_stream(stream.device().index, stream.allocator(), stream.host_allocator(), stream.pool());
}

// The elements that an all_to_all(_v) touches, which lie in front.
Tensor front(const Tensor& tensor, const std::vector<int64_t>& counts) {
  return tensor.flat_slice(0, {std::accumulate(counts.begin(), counts.end(), int64_t{0})});
}

}  // namespace

StagingStreams::StagingStreams(Stream& stream) : down_(stream_like(stream)), up_(stream_like(stream)) {}

StagedCall::StagedCall(CommCall& call, int rank, Stream& caller, StagingStreams& streams) : streams_(streams) {
  streams.down().wait(*caller.record());
  switch (call.op) {
    case CommOp::all_reduce:
      call.input = stage(call.input, /*down=*/true, /*up=*/true);
      call.output = call.input;
      break;
    case CommOp::broadcast:
      call.input = stage(call.input, /*down=*/call.root == rank, /*up=*/call.root != rank);
      call.output = call.input;
      break;
    case CommOp::reduce_scatter:
    case CommOp::all_gather:
      call.input = stage(call.input, /*down=*/true, /*up=*/false);
      call.output = stage(call.output, /*down=*/false, /*up=*/true);
      break;
    case CommOp::all_to_all:
    case CommOp::all_to_all_v:
      call.input = stage(front(call.input, call.send_counts), /*down=*/true, /*up=*/false);
      call.output = stage(front(call.output, call.recv_counts), /*down=*/false, /*up=*/true);
      break;
    case CommOp::barrier: break;
    case CommOp::send:
    case CommOp::recv:
      for (Transfer& t : call.transfers) {
        const bool sends = t.kind == Transfer::Kind::send;
        if (t.tensor.device().type != DeviceType::cpu) t.tensor = stage(t.tensor, /*down=*/sends, /*up=*/!sends);
      }
      break;
  }
  downloaded_ = streams.down().record();
}

StagedCall::~StagedCall() {
  downloaded_->synchronize();
  if (uploaded_) uploaded_->synchronize();
}

Tensor StagedCall::stage(const Tensor& device, bool down, bool up) {
  const Tensor host = Tensor::empty_on_host(streams_.down(), device.shape(), device.dtype());
  if (down) {
    cuda::queue_download(streams_.down(), device, host);
    downloads_.push_back({host, device});
  }
  if (up) uploads_.push_back({host, device});
  return host;
}

void StagedCall::upload() {
  for (const Copy& copy : uploads_) cuda::queue_upload(streams_.up(), copy.host, copy.device);
  uploaded_ = streams_.up().record();
}

}  // namespace trireme
