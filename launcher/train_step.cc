#include "launcher/train_step.h"

#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"

namespace trireme {

namespace {

std::vector<RecomputeMode> recompute_modes(const Config& config, size_t num_units) {
  std::vector<RecomputeMode> modes(num_units, RecomputeMode::none);
  // The first unit is the embedding, the last the loss head: neither recomputes.
  const size_t blocks = num_units - 2;
  const size_t limit = config.recompute.layers ? static_cast<size_t>(*config.recompute.layers) : blocks;
  for (size_t i = 0; i < std::min(blocks, limit); ++i) modes[i + 1] = config.recompute.mode;
  return modes;
}

}  // namespace

Microbatch upload(Stream& stream, const HostMicrobatch& host, const Tensor& loss_sum, const Tensor& grad_scale) {
  const auto to_device = [&](const int32_t* data) {
    Tensor t = Tensor::empty(stream, {host.batch * host.sequence}, DType::i32);
    ops::copy_from_host(stream, data, t);
    return t;
  };
  Microbatch m;
  m.batch = host.batch;
  m.sequence = host.sequence;
  m.tokens = to_device(host.tokens);
  m.labels = to_device(host.labels);
  m.positions = to_device(host.positions);
  if (host.document_start != nullptr) m.document_start = to_device(host.document_start);
  m.grad_scale = grad_scale;
  m.with_gradients = grad_scale.defined();
  m.loss_sum = loss_sum;
  return m;
}

TrainStep::TrainStep(Stream& stream, Communicator& data, Transformer& model, const Config& config)
    : stream_(stream),
      data_(data),
      model_(model),
      stage_(model.units(), recompute_modes(config, model.units().size())),
      reducer_(model.units(), model.buckets(), data, config.parallel.overlap_grad_reduce),
      optimizer_(stream, config.optimizer, model.buckets()) {
  loss_sum_ = Tensor::empty(stream, {1}, DType::f64, MemoryTag::workspace);
  valid_ = Tensor::empty(stream, {1}, DType::i64, MemoryTag::workspace);
}

int64_t TrainStep::count_valid(std::span<const HostMicrobatch> microbatches) {
  int64_t count = 0;
  for (const HostMicrobatch& m : microbatches) {
    for (int64_t i = 0; i < m.batch * m.sequence; ++i) count += m.labels[i] != ops::kIgnoredLabel;
  }
  if (data_.size() == 1) return count;
  ops::copy_from_host(stream_, &count, valid_);
  data_.all_reduce(valid_, ReduceOp::sum, stream_)->wait(stream_);
  ops::copy_to_host(stream_, valid_, &count);
  stream_.synchronize();
  return count;
}

void TrainStep::reduce_loss() {
  if (data_.size() > 1) data_.all_reduce(loss_sum_, ReduceOp::sum, stream_)->wait(stream_);
}

void TrainStep::forward_backward(std::span<const HostMicrobatch> microbatches) {
  TRIREME_CHECK(!microbatches.empty());
  valid_tokens_ = count_valid(microbatches);
  const float grad_scale = valid_tokens_ > 0 ? static_cast<float>(1.0 / static_cast<double>(valid_tokens_)) : 0.0f;
  ops::fill(stream_, loss_sum_, 0);
  reducer_.begin_step();
  for (size_t i = 0; i < microbatches.size(); ++i) {
    const Microbatch microbatch = upload(stream_, microbatches[i], loss_sum_, grad_scale, /*with_gradients=*/true);
    const bool last = i + 1 == microbatches.size();
    StageStash stash;
    stage_.forward(stream_, microbatch, {}, stash);
    stage_.backward(stream_, microbatch, {}, stash, [&](size_t unit) {
      if (last) reducer_.unit_finished(unit, stream_);
    });
  }
  exposed_comm_seconds_ = reducer_.finish(stream_);
  reduce_loss();
}

void TrainStep::update(double learning_rate, int64_t update) {
  optimizer_.update(stream_, learning_rate, update, loss_sum_);
}

StepNumbers TrainStep::numbers() {
  double loss_sum = 0;
  float norm = 0;
  int32_t non_finite = 0;
  ops::copy_to_host(stream_, loss_sum_, &loss_sum);
  ops::copy_to_host(stream_, optimizer_.scalars().grad_norm, &norm);
  ops::copy_to_host(stream_, optimizer_.scalars().non_finite, &non_finite);
  stream_.synchronize();
  StepNumbers n;
  n.valid_tokens = valid_tokens_;
  n.loss = valid_tokens_ > 0 ? loss_sum / static_cast<double>(valid_tokens_) : 0.0;
  n.grad_norm = norm;
  n.non_finite = non_finite != 0;
  n.exposed_comm_seconds = exposed_comm_seconds_;
  return n;
}

double TrainStep::evaluate(std::span<const HostMicrobatch> microbatches) {
  const int64_t valid = count_valid(microbatches);
  ops::fill(stream_, loss_sum_, 0);
  for (const HostMicrobatch& host : microbatches) {
    const Microbatch microbatch = upload(stream_, host, loss_sum_, /*grad_scale=*/{});
    StageStash stash;
    stage_.forward(stream_, microbatch, {}, stash);
  }
  reduce_loss();
  double loss_sum = 0;
  ops::copy_to_host(stream_, loss_sum_, &loss_sum);
  stream_.synchronize();
  return valid > 0 ? loss_sum / static_cast<double>(valid) : 0.0;
}

namespace {

Tensor forward_hidden(Stream& stream, const Transformer& model, const HostMicrobatch& host) {
  const Microbatch microbatch = upload(stream, host, /*loss_sum=*/{}, /*grad_scale=*/{});
  Tensor hidden;
  const std::vector<Unit*> units = model.units();
  for (size_t i = 0; i + 1 < units.size(); ++i) {
    Stash stash(/*keep=*/false);
    hidden = units[i]->forward(stream, microbatch, hidden, stash);
  }
  return hidden;
}

}  // namespace

Tensor forward_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host) {
  return model.head().logits(stream, forward_hidden(stream, model, host));
}

std::vector<float> last_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host) {
  const Tensor hidden = forward_hidden(stream, model, host);
  const Tensor logits = model.head().logits(stream, hidden.slice(hidden.dim(0) - 1, hidden.dim(0)));
  std::vector<float> values(static_cast<size_t>(logits.numel()));
  ops::copy_to_host(stream, logits, values.data());
  stream.synchronize();
  return values;
}

}  // namespace trireme
