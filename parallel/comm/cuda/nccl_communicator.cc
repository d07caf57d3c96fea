#include "parallel/comm/cuda/nccl_communicator.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/device/cuda/cuda_device.h"
#include "parallel/comm/cuda/nccl_bootstrap.h"
#include "parallel/comm/cuda/nccl_group.h"
#include "parallel/comm/cuda/nccl_watch.h"

namespace trireme {

namespace {

using cuda::NcclCallPtr;
using cuda::NcclGroup;
using cuda::NcclWatch;

class NcclWork final : public Work {
 public:
  NcclWork(std::shared_ptr<NcclGroup> group, NcclCallPtr call) : group_(std::move(group)), call_(std::move(call)) {}
  void wait(Stream& stream) override { group_->wait(*call_, stream); }
  bool done() override { return group_->done(*call_); }

 private:
  const std::shared_ptr<NcclGroup> group_;
  const NcclCallPtr call_;
};

// What the groups of a rank share.
struct NcclRank {
  NcclRank(Stream& stream, const NcclOptions& with)
      : options(with),
        device(stream.device()),
        memory(stream.allocator()),
        pinned(stream.host_allocator()),
        pool(stream.pool()),
        watch(with.watch_seconds) {}

  std::unique_ptr<Stream> make_stream() const {
    return cuda::make_stream(device.index, memory, pinned, pool, cuda::StreamPriority::high);
  }

  const NcclOptions options;
  const Device device;
  Allocator& memory;
  Allocator& pinned;
  ThreadPool& pool;
  NcclWatch watch;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclRank> shared, std::unique_ptr<Communicator> host, const std::string& name)
      : Communicator(host->rank(), host->size(), name, host->recorder()),
        shared_(std::move(shared)),
        host_(std::move(host)),
        group_(std::make_shared<NcclGroup>(cuda::share_unique_id(*host_),
                                           cuda::NcclMember{.group = name, .rank = rank(), .size = size()},
                                           shared_->make_stream(), recorder(), shared_->options)) {
    shared_->watch.add(group_);
  }
  ~NcclCommunicator() override { group_->close(/*abandon=*/std::uncaught_exceptions() > 0); }

  std::string backend() const override { return "nccl"; }

 protected:
  WorkHandle submit(CommCall call, Stream& stream) override {
    const auto is_here = [&](const Tensor& t) { return !t.defined() || t.device() == shared_->device; };
    const bool on_device =
        is_here(call.input) && is_here(call.output) &&
        std::all_of(call.transfers.begin(), call.transfers.end(), [&](const Transfer& t) { return is_here(t.tensor); });
    TRIREME_CHECK(on_device, "the nccl backend takes tensors on the rank's GPU");
    NcclCallPtr work = group_->submit(std::move(call), stream);
    shared_->watch.wake();
    return std::make_shared<NcclWork>(group_, std::move(work));
  }

  std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) override {
    std::unique_ptr<Communicator> host = host_->split(ranks, name + " (host)");
    if (ranks.empty()) return nullptr;
    if (ranks.size() == 1) return make_self_communicator(name, recorder());
    return std::make_unique<NcclCommunicator>(shared_, std::move(host), name);
  }

 private:
  const std::shared_ptr<NcclRank> shared_;
  const std::unique_ptr<Communicator> host_;
  const std::shared_ptr<NcclGroup> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, const std::string& name,
                                                     Stream& stream, const NcclOptions& options) {
  TRIREME_CHECK(stream.device().type == DeviceType::cuda, "the nccl backend needs a stream of a GPU");
  cuda::refuse_shared_gpus(*host, name, stream.device());
  if (options.deterministic) cuda::pin_algorithms();
  return std::make_unique<NcclCommunicator>(std::make_shared<NcclRank>(stream, options), std::move(host), name);
}

}  // namespace trireme
