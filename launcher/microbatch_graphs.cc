#include "launcher/microbatch_graphs.h"

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

// Below, a layer's kernels take about as long as their launches (a few microseconds each).
constexpr int64_t kSmallTokens = 8192;

}  // namespace

MicrobatchGraphs::MicrobatchGraphs(Stream& stream, std::vector<Bucket*> buckets, GraphUse use)
    : stream_(stream), buckets_(std::move(buckets)), use_(use) {}

bool MicrobatchGraphs::take(const HostMicrobatch& host) const {
  return use_ == GraphUse::always || (use_ == GraphUse::automatic && host.batch * host.sequence <= kSmallTokens);
}

void MicrobatchGraphs::run(const HostMicrobatch& host, bool first, const Tensor& loss_sum, const Tensor& grad_scale,
                           const std::function<void(const Microbatch&)>& work) {
  Recorded& recorded = graphs_[{host.batch, host.sequence, host.document_start != nullptr, first}];
  if (!recorded.ran) {
    recorded.ran = true;
    work(upload(stream_, host, loss_sum, grad_scale));
    return;
  }
  if (recorded.graph == nullptr) {
    recorded.input = upload(stream_, host, loss_sum, grad_scale);
    recorded.graph = stream_.record_graph([&] { work(recorded.input); });
  } else {
    const auto refresh = [&](const int32_t* data, Tensor& place) { ops::copy_from_host(stream_, data, place); };
    refresh(host.tokens, recorded.input.tokens);
    refresh(host.labels, recorded.input.labels);
    refresh(host.positions, recorded.input.positions);
    if (host.document_start != nullptr) refresh(host.document_start, recorded.input.document_start);
  }
  recorded.graph->launch();
  // A replay doesn't pass through the layers, which would have noted it.
  for (Bucket* bucket : buckets_) {
    for (Weight* weight : bucket->weights()) weight->gradient_written = true;
  }
}

}  // namespace trireme
