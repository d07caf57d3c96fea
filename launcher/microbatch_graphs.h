// Microbatches as CUDA graphs: forward and backward of one shape are recorded once and launched again with other tokens,
// so that the host queues one graph instead of hundreds of kernels. It pays where a kernel takes no longer than its
// launch: small microbatches.
//
// A graph is recorded for the first microbatch of a step, which writes the gradients, and one for the others, which add.
// Tokens, labels, positions and document starts are copied to fixed places before each launch; what changes from step
// to step otherwise (1 / number of labels) lies in device memory anyway.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/config/config.h"
#include "launcher/train_step.h"

namespace trireme {

class MicrobatchGraphs {
 public:
  MicrobatchGraphs(Stream& stream, std::vector<Bucket*> buckets, GraphUse use);

  // Whether a microbatch of this shape shall run as a graph.
  bool take(const HostMicrobatch& host) const;

  // Runs `work(microbatch)`: as it is for the first microbatch of a kind, so that libraries choose and allocate what they
  // can't while a graph is recorded; recorded for the second; replayed from then on. REQUIRES: `loss_sum` and
  // `grad_scale` are the same tensors in every call.
  void run(const HostMicrobatch& host, bool first, const Tensor& loss_sum, const Tensor& grad_scale,
           const std::function<void(const Microbatch&)>& work);

 private:
  struct Key {
    int64_t batch = 0;
    int64_t sequence = 0;
    bool masked = false;
    bool first = false;
    auto operator<=>(const Key&) const = default;
  };
  struct Recorded {
    bool ran = false;
    Microbatch input;
    std::unique_ptr<Graph> graph;
  };

  Stream& stream_;
  std::vector<Bucket*> buckets_;
  GraphUse use_;
  std::map<Key, Recorded> graphs_;
};

}  // namespace trireme
