#include "launcher/train_step.h"

#include <algorithm>

#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/trace/tracer.h"
#include "launcher/configured_schedule.h"
#include "launcher/microbatch_graphs.h"
#include "parallel/pipeline/checker.h"
#include "parallel/zero/gradient_norm.h"

namespace trireme {

namespace {

// What the ranks add up in one message.
enum Sum : int { kLossSum, kPredictionLossSum, kSquares, kStop, kSaving, kNumSums };

// From the first computation's begin to the last one's end, what was no computation.
double bubble_seconds(const std::vector<TimedAction>& times) {
  if (times.empty()) return 0;
  double work = 0;
  double begin = times.front().begin;
  double end = times.front().end;
  for (const TimedAction& action : times) {
    work += action.end - action.begin;
    begin = std::min(begin, action.begin);
    end = std::max(end, action.end);
  }
  return std::max(0.0, end - begin - work);
}

// Of each unit on this rank. `recompute.layers` counts the layers of the whole model.
std::vector<RecomputeMode> recompute_modes(const Config& config, const Transformer& model) {
  std::vector<RecomputeMode> modes(model.units().size(), RecomputeMode::none);
  for (const ModelChunk& chunk : model.chunks()) {
    for (int64_t i = 0; i < chunk.num_layers; ++i) {
      const bool recomputes = !config.recompute.layers || chunk.first_layer + i < *config.recompute.layers;
      if (recomputes) modes[chunk.first_block + static_cast<size_t>(i)] = config.recompute.mode;
    }
  }
  return modes;
}

DataParallel::Options data_parallel_options(const ParallelConfig& config) {
  const bool keep_for_step = config.keep_gathered == KeepGathered::step ||
                             (config.keep_gathered == KeepGathered::automatic && config.pipeline > 1);
  return {.overlap_grad_reduce = config.overlap_grad_reduce,
          .overlap_param_gather = config.overlap_param_gather,
          .keep_gathered_for_step = keep_for_step,
          .prefetch = config.prefetch};
}

}  // namespace

TrainStep::TrainStep(Stream& stream, const Groups& groups, Transformer& model, const Config& config)
    : stream_(stream),
      groups_(groups),
      model_(model),
      parallel_(config.parallel),
      data_parallel_(model.units(), model.buckets(), groups, data_parallel_options(config.parallel)),
      work_(model, recompute_modes(config, model), data_parallel_),
      optimizer_(stream, config.optimizer, static_cast<uint64_t>(config.run.seed), model.buckets()),
      moe_step_(model, config.moe, groups.world()) {
  sums_ = Tensor::empty(stream, {kNumSums}, DType::f64, MemoryTag::workspace);
  loss_sum_ = sums_.slice(kLossSum, kLossSum + 1);
  work_.set_prediction_loss_sum(sums_.slice(kPredictionLossSum, kPredictionLossSum + 1));
  valid_ = Tensor::empty(stream, {1}, DType::i64, MemoryTag::workspace);
  grad_scale_ = Tensor::empty(stream, {1}, DType::f32, MemoryTag::workspace);
  // What communicates can't be recorded, and what asks the device how many rows experts get neither. Modules of
  // multi-token prediction come with experts.
  const Mesh& mesh = groups.mesh();
  const bool communicates = mesh.degree(Axis::tensor) > 1 || mesh.degree(Axis::pipeline) > 1 || parallel_.zero > 1 ||
                            model.config().experts.num_experts > 0 || model.config().num_predictors > 0;
  const bool one_chunk = model.chunks().size() == 1;
  if (stream.records_graphs() && config.run.cuda_graphs != GraphUse::never && !communicates && one_chunk) {
    graphs_ = std::make_unique<MicrobatchGraphs>(stream, model.buckets(), config.run.cuda_graphs);
  }
}

TrainStep::~TrainStep() = default;

// Every rank of a tensor group has the same losses.
void TrainStep::reduce_sums() {
  if (groups_.mesh().coordinate(Axis::tensor) != 0) {
    Tensor losses = sums_.slice(kLossSum, kPredictionLossSum + 1);
    ops::fill(stream_, losses, 0);
  }
  if (groups_.world().size() > 1) groups_.world().all_reduce(sums_, ReduceOp::sum, stream_)->wait(stream_);
}

void TrainStep::count_valid(std::span<const HostMicrobatch> microbatches) {
  int64_t count = 0;
  for (const HostMicrobatch& m : microbatches) {
    for (int64_t i = 0; i < m.batch * m.sequence; ++i) count += m.labels[i] != ops::kIgnoredLabel;
  }
  ops::copy_from_host(stream_, &count, valid_);
  Communicator& data = groups_.of(kDataAxes);
  if (data.size() > 1) data.all_reduce(valid_, ReduceOp::sum, stream_)->wait(stream_);
}

const Schedule& TrainStep::schedule(int64_t num_microbatches, bool forward_only) {
  const auto key = std::pair(num_microbatches, forward_only);
  auto found = schedules_.find(key);
  if (found == schedules_.end()) {
    found = schedules_.emplace(key, configured_schedule(parallel_, num_microbatches, forward_only)).first;
    const CheckReport report = check(found->second);
    TRIREME_CHECK(report.ok(), "an illegal schedule: " + report.violation);
  }
  return found->second;
}

void TrainStep::run_schedule(std::span<const HostMicrobatch> microbatches, const Tensor& grad_scale) {
  work_.begin(microbatches, loss_sum_, grad_scale);
  const PipelineChannels channels{[&](int rank) -> Communicator& { return groups_.channel_to(rank); },
                                  [&](int rank) -> Communicator& { return groups_.channel_from(rank); }};
  run_program(schedule(std::ssize(microbatches), !grad_scale.defined()),
              static_cast<int>(groups_.mesh().coordinate(Axis::pipeline)), work_, channels, stream_,
              program_times_.get());
}

bool TrainStep::takes_graph(const HostMicrobatch& host) const {
  const bool traced = stream_.tracer() != nullptr && stream_.tracer()->keeping();
  return graphs_ && !traced && graphs_->take(host);
}

// The last microbatch hands its gradients to communication while it runs, which a graph can't.
void TrainStep::run_graphs(std::span<const HostMicrobatch> microbatches) {
  const bool reduces = groups_.of(kDataAxes).size() > 1;
  for (size_t i = 0; i < microbatches.size(); ++i) {
    if (reduces && i + 1 == microbatches.size()) {
      run_schedule(microbatches.subspan(i), grad_scale_);
    } else {
      data_parallel_.before_plain_microbatch(stream_);
      graphs_->run(microbatches[i], /*first=*/i == 0, loss_sum_, grad_scale_,
                   [&](const Microbatch& microbatch) { work_.run_plain(stream_, microbatch); });
      data_parallel_.after_plain_microbatch(stream_);
    }
  }
}

void TrainStep::warm_up(int64_t batch, int64_t sequence, bool mask_documents) {
  const std::vector<int32_t> zeros(static_cast<size_t>(batch * sequence), 0);
  const int32_t* data = zeros.data();
  const HostMicrobatch host{batch, sequence, data, data, data, mask_documents ? data : nullptr};
  const std::vector<HostMicrobatch> both(2, host);  // the second one adds to the gradients of the first
  ops::fill(stream_, grad_scale_, 0);
  data_parallel_.begin_step(std::ssize(both));
  run_schedule(both, grad_scale_);
  data_parallel_.finish(stream_);
  run_schedule(std::span(both).first(1), /*grad_scale=*/{});
  stream_.synchronize();
}

void TrainStep::forward_backward(std::span<const HostMicrobatch> microbatches,
                                 const std::function<HostNews()>& ask_news) {
  TRIREME_CHECK(!microbatches.empty());
  count_valid(microbatches);
  ops::inverse_count(stream_, valid_, grad_scale_);
  ops::fill(stream_, sums_, 0);
  moe_step_.begin(stream_);
  const HostMicrobatch& any = microbatches.front();
  num_tokens_ = std::ssize(microbatches) * any.batch * any.sequence * groups_.mesh().data_degree();
  data_parallel_.begin_step(std::ssize(microbatches));
  if (takes_graph(microbatches.front())) {
    run_graphs(microbatches);
  } else {
    if (groups_.mesh().degree(Axis::pipeline) > 1) program_times_ = std::make_unique<ProgramTimes>();
    run_schedule(microbatches, grad_scale_);
  }
  exposed_ = data_parallel_.finish(stream_);
  if (!ask_news) return;
  const HostNews news = ask_news();
  const auto tell = [&](int64_t place) {
    Tensor one = sums_.slice(place, place + 1);
    ops::fill(stream_, one, 1);
  };
  if (news.stop_asked) tell(kStop);
  if (news.is_saving) tell(kSaving);
}

void TrainStep::update(double learning_rate, int64_t update) {
  {
    const TraceRange range(stream_, "optimizer");
    Tensor squares = sums_.slice(kSquares, kSquares + 1);
    sum_gradient_squares(stream_, model_.buckets(), groups_.mesh(), squares);
    reduce_sums();
    optimizer_.update(stream_, learning_rate, update, squares, loss_sum_);
    moe_step_.finish(stream_, optimizer_.scalars().non_finite);
    data_parallel_.after_update(stream_);
  }
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
  r.moe = moe_step_.start_readback(stream_);
  r.num_tokens = num_tokens_;
  r.copied = stream_.record();
  r.exposed = std::move(exposed_);
  r.program = std::move(program_times_);
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
  const int64_t num_predictors = model_.config().num_predictors;
  if (num_predictors > 0 && n.valid_tokens > 0) {
    n.prediction_loss = sums[kPredictionLossSum] / static_cast<double>(n.valid_tokens * num_predictors);
  }
  n.stop_asked = sums[kStop] > 0;
  n.is_saving = sums[kSaving] > 0;
  n.grad_norm = *r.grad_norm.data<float>();
  n.non_finite = *r.non_finite.data<int32_t>() != 0;
  n.moe = moe_step_.read(r.moe, r.num_tokens);
  n.exposed_comm_seconds = r.exposed.seconds();
  if (r.program) n.program = r.program->read();
  n.bubble_seconds = bubble_seconds(n.program);
  return n;
}

double TrainStep::evaluate(std::span<const HostMicrobatch> microbatches) {
  count_valid(microbatches);
  ops::fill(stream_, sums_, 0);
  run_schedule(microbatches, /*grad_scale=*/{});
  reduce_sums();
  double loss_sum = 0;
  int64_t valid = 0;
  ops::copy_to_host(stream_, loss_sum_, &loss_sum);
  ops::copy_to_host(stream_, valid_, &valid);
  stream_.synchronize();
  return valid > 0 ? loss_sum / static_cast<double>(valid) : 0.0;
}

std::vector<Tensor> TrainStep::logits(std::span<const HostMicrobatch> microbatches) {
  std::vector<Tensor> kept;
  if (model_.head() != nullptr) {
    for (const HostMicrobatch& m : microbatches) {
      kept.push_back(Tensor::empty(stream_, {m.batch * m.sequence, model_.head()->num_rows()}, DType::f32));
    }
  }
  work_.keep_logits(kept);
  ops::fill(stream_, sums_, 0);
  run_schedule(microbatches, /*grad_scale=*/{});
  work_.keep_logits({});
  return kept;
}

namespace {

// Passes everything on, and shows outputs.
class WatchingHooks final : public UnitHooks {
 public:
  WatchingHooks(UnitHooks& inner, const std::function<void(size_t, const Tensor&)>& see) : inner_(inner), see_(see) {}
  void before_forward(size_t unit, bool gradients, Stream& stream) override {
    inner_.before_forward(unit, gradients, stream);
  }
  void saw_output(size_t unit, const Tensor& output) override { see_(unit, output); }
  void after_forward(size_t unit, bool gradients, Stream& stream) override {
    inner_.after_forward(unit, gradients, stream);
  }
  void before_backward(size_t, Stream&) override {}
  void after_backward_input(size_t, Stream&) override {}
  void before_backward_weight(size_t, Stream&) override {}
  void after_backward_weight(size_t, Stream&) override {}

 private:
  UnitHooks& inner_;
  const std::function<void(size_t, const Tensor&)>& see_;
};

}  // namespace

double TrainStep::watch_forward(const HostMicrobatch& microbatch,
                                const std::function<void(size_t, const Tensor&)>& see) {
  WatchingHooks watching(data_parallel_, see);
  work_.use_hooks(watching);
  ops::fill(stream_, sums_, 0);
  run_schedule(std::span(&microbatch, 1), /*grad_scale=*/{});
  work_.use_hooks(data_parallel_);
  reduce_sums();
  double loss_sum = 0;
  ops::copy_to_host(stream_, loss_sum_, &loss_sum);
  stream_.synchronize();
  return loss_sum;
}

namespace {

Tensor forward_hidden(Stream& stream, const Transformer& model, const HostMicrobatch& host) {
  const Microbatch microbatch = upload(stream, host, /*loss_sum=*/{}, /*grad_scale=*/{});
  Tensor hidden;
  const std::vector<Unit*> units = model.units();
  for (size_t i = 0; i + 1 < units.size(); ++i) {
    Stash stash(Stash::Keep::nothing);
    hidden = units[i]->forward(stream, microbatch, hidden, stash);
  }
  return hidden;
}

}  // namespace

Tensor forward_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host) {
  return model.head()->logits(stream, forward_hidden(stream, model, host));
}

std::vector<float> last_logits(Stream& stream, const Transformer& model, const HostMicrobatch& host) {
  const Tensor hidden = forward_hidden(stream, model, host);
  const Tensor logits = model.head()->logits(stream, hidden.slice(hidden.dim(0) - 1, hidden.dim(0)));
  std::vector<float> values(static_cast<size_t>(logits.numel()));
  ops::copy_to_host(stream, logits, values.data());
  stream.synchronize();
  return values;
}

}  // namespace trireme
