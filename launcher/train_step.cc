#include "launcher/train_step.h"

#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/trace/tracer.h"
#include "launcher/microbatch_graphs.h"
#include "parallel/zero/gradient_norm.h"

namespace trireme {

namespace {

// What the ranks add up in one message.
enum Sum : int { kLossSum, kStop, kSumSquares, kNumSums };

DataParallel::Options data_parallel_options(const ParallelConfig& config) {
  DataParallel::Options options;
  options.overlap_grad_reduce = config.overlap_grad_reduce;
  options.overlap_param_gather = config.overlap_param_gather;
  options.keep_gathered_for_step = config.keep_gathered == KeepGathered::step ||
                                   (config.keep_gathered == KeepGathered::automatic && config.pipeline > 1);
  options.prefetch = config.prefetch;
  return options;
}

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

TrainStep::TrainStep(Stream& stream, const Groups& groups, Transformer& model, const Config& config)
    : stream_(stream),
      groups_(groups),
      model_(model),
      stage_(model.units(), recompute_modes(config, model.units().size())),
      data_parallel_(model.units(), model.buckets(), groups, data_parallel_options(config.parallel)),
      optimizer_(stream, config.optimizer, static_cast<uint64_t>(config.run.seed), model.buckets()) {
  sums_ = Tensor::empty(stream, {kNumSums}, DType::f64, MemoryTag::workspace);
  loss_sum_ = sums_.slice(kLossSum, kLossSum + 1);
  valid_ = Tensor::empty(stream, {1}, DType::i64, MemoryTag::workspace);
  grad_scale_ = Tensor::empty(stream, {1}, DType::f32, MemoryTag::workspace);
  // From stage 2 on gradients move while a microbatch runs, which a graph can't.
  const bool full_gradients = model.buckets().front()->stage() < 2;
  if (stream.records_graphs() && config.run.cuda_graphs != GraphUse::never && full_gradients) {
    graphs_ = std::make_unique<MicrobatchGraphs>(stream, model.buckets(), config.run.cuda_graphs);
  }
}

TrainStep::~TrainStep() = default;

void TrainStep::reduce(const Tensor& tensor) {
  if (groups_.world().size() > 1) groups_.world().all_reduce(tensor, ReduceOp::sum, stream_)->wait(stream_);
}

void TrainStep::count_valid(std::span<const HostMicrobatch> microbatches) {
  int64_t count = 0;
  for (const HostMicrobatch& m : microbatches) {
    for (int64_t i = 0; i < m.batch * m.sequence; ++i) count += m.labels[i] != ops::kIgnoredLabel;
  }
  ops::copy_from_host(stream_, &count, valid_);
  reduce(valid_);
}

void TrainStep::run_microbatch(const HostMicrobatch& host, bool first, bool last) {
  const TraceRange range(stream_, "microbatch");
  const auto run = [&](const Microbatch& microbatch, UnitHooks& hooks) {
    StageStash stash;
    stage_.forward(stream_, microbatch, {}, stash, hooks);
    stage_.backward(stream_, microbatch, {}, stash, hooks);
  };
  // The last microbatch hands its gradients to communication while it runs; a graph can't.
  const bool traced = stream_.tracer() != nullptr && stream_.tracer()->keeping();
  if (graphs_ && !traced && !(last && groups_.of(kDataAxes).size() > 1) && graphs_->take(host)) {
    NoHooks none;
    data_parallel_.before_plain_microbatch(stream_);
    graphs_->run(host, first, loss_sum_, grad_scale_, [&](const Microbatch& m) { run(m, none); });
    data_parallel_.after_plain_microbatch(stream_);
  } else {
    run(upload(stream_, host, loss_sum_, grad_scale_), data_parallel_);
  }
}

void TrainStep::warm_up(int64_t batch, int64_t sequence, bool mask_documents) {
  const std::vector<int32_t> zeros(static_cast<size_t>(batch * sequence), 0);
  const int32_t* data = zeros.data();
  const HostMicrobatch host{batch, sequence, data, data, data, mask_documents ? data : nullptr};
  data_parallel_.begin_step(2);
  ops::fill(stream_, grad_scale_, 0);
  for (int i = 0; i < 2; ++i) {  // the second one adds to the gradients of the first
    const Microbatch microbatch = upload(stream_, host, loss_sum_, grad_scale_);
    StageStash stash;
    stage_.forward(stream_, microbatch, {}, stash, data_parallel_);
    stage_.backward(stream_, microbatch, {}, stash, data_parallel_);
  }
  data_parallel_.finish(stream_);
  StageStash stash;
  stage_.forward(stream_, upload(stream_, host, loss_sum_, /*grad_scale=*/{}), {}, stash, data_parallel_);
  stream_.synchronize();
}

void TrainStep::forward_backward(std::span<const HostMicrobatch> microbatches, const std::function<bool()>& ask_stop) {
  TRIREME_CHECK(!microbatches.empty());
  count_valid(microbatches);
  ops::inverse_count(stream_, valid_, grad_scale_);
  ops::fill(stream_, sums_, 0);
  data_parallel_.begin_step(std::ssize(microbatches));
  for (size_t i = 0; i < microbatches.size(); ++i) {
    run_microbatch(microbatches[i], /*first=*/i == 0, /*last=*/i + 1 == microbatches.size());
  }
  exposed_ = data_parallel_.finish(stream_);
  Tensor squares = sums_.slice(kSumSquares, kSumSquares + 1);
  sum_gradient_squares(stream_, model_.buckets(), groups_.mesh(), squares);
  if (ask_stop && ask_stop()) {
    Tensor stop = sums_.slice(kStop, kStop + 1);
    ops::fill(stream_, stop, 1);
  }
  reduce(sums_);
}

void TrainStep::update(double learning_rate, int64_t update) {
  {
    const TraceRange range(stream_, "optimizer");
    optimizer_.update(stream_, learning_rate, update, sums_.slice(kSumSquares, kSumSquares + 1), loss_sum_);
  }
  data_parallel_.after_update(stream_);
  readbacks_.push_back(start_readback());
}

TrainStep::Readback TrainStep::start_readback() {
  const auto to_host = [&](const Tensor& x) {
    Tensor host = Tensor::empty_on_host(stream_, x.shape(), x.dtype());
    ops::copy_to_host(stream_, x, host.raw());
    return host;
  };
  Readback r;
  r.sums = to_host(sums_);
  r.valid = to_host(valid_);
  r.grad_norm = to_host(optimizer_.scalars().grad_norm);
  r.non_finite = to_host(optimizer_.scalars().non_finite);
  r.copied = stream_.record();
  r.exposed = std::move(exposed_);
  return r;
}

StepNumbers TrainStep::take_numbers() {
  TRIREME_CHECK(!readbacks_.empty());
  Readback r = std::move(readbacks_.front());
  readbacks_.pop_front();
  r.copied->synchronize();
  const double* sums = r.sums.data<double>();
  StepNumbers n;
  n.valid_tokens = *r.valid.data<int64_t>();
  n.loss = n.valid_tokens > 0 ? sums[kLossSum] / static_cast<double>(n.valid_tokens) : 0.0;
  n.stop_asked = sums[kStop] > 0;
  n.grad_norm = *r.grad_norm.data<float>();
  n.non_finite = *r.non_finite.data<int32_t>() != 0;
  n.exposed_comm_seconds = r.exposed.seconds();
  return n;
}

double TrainStep::evaluate(std::span<const HostMicrobatch> microbatches) {
  count_valid(microbatches);
  ops::fill(stream_, sums_, 0);
  for (const HostMicrobatch& host : microbatches) {
    const Microbatch microbatch = upload(stream_, host, loss_sum_, /*grad_scale=*/{});
    StageStash stash;
    stage_.forward(stream_, microbatch, {}, stash, data_parallel_);
  }
  reduce(sums_);
  double loss_sum = 0;
  int64_t valid = 0;
  ops::copy_to_host(stream_, loss_sum_, &loss_sum);
  ops::copy_to_host(stream_, valid_, &valid);
  stream_.synchronize();
  return valid > 0 ? loss_sum / static_cast<double>(valid) : 0.0;
}

namespace {

// What enters the head, whose weights are there then.
Tensor forward_hidden(Stream& stream, const Transformer& model, UnitHooks& hooks, const HostMicrobatch& host) {
  const Microbatch microbatch = upload(stream, host, /*loss_sum=*/{}, /*grad_scale=*/{});
  Tensor hidden;
  const std::vector<Unit*> units = model.units();
  const size_t head = units.size() - 1;
  for (size_t i = 0; i < head; ++i) {
    Stash stash(/*keep=*/false);
    hooks.before_forward(i, /*with_gradients=*/false, stream);
    hidden = units[i]->forward(stream, microbatch, hidden, stash);
    hooks.after_forward(i, /*with_gradients=*/false, stream);
  }
  hooks.before_forward(head, /*with_gradients=*/false, stream);
  return hidden;
}

}  // namespace

Tensor forward_logits(Stream& stream, const Transformer& model, UnitHooks& hooks, const HostMicrobatch& host) {
  Tensor logits = model.head().logits(stream, forward_hidden(stream, model, hooks, host));
  hooks.after_forward(model.units().size() - 1, /*with_gradients=*/false, stream);
  return logits;
}

std::vector<float> last_logits(Stream& stream, const Transformer& model, UnitHooks& hooks, const HostMicrobatch& host) {
  const Tensor hidden = forward_hidden(stream, model, hooks, host);
  const Tensor logits = model.head().logits(stream, hidden.slice(hidden.dim(0) - 1, hidden.dim(0)));
  hooks.after_forward(model.units().size() - 1, /*with_gradients=*/false, stream);
  std::vector<float> values(static_cast<size_t>(logits.numel()));
  ops::copy_to_host(stream, logits, values.data());
  stream.synchronize();
  return values;
}

}  // namespace trireme
