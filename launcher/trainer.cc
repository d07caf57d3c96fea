#include "launcher/trainer.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "checkpoint/directory.h"
#include "core/config/load.h"
#include "core/error.h"
#include "core/ops/cpu/gemm_peak.h"
#include "core/ops/elementwise.h"
#include "core/trace/tracer.h"
#include "launcher/diagnose.h"
#include "launcher/gemm_tuning.h"
#include "launcher/measured_timeline.h"
#include "launcher/resume.h"
#include "optim/learning_rate.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

DatasetOptions dataset_options(const Config& config) {
  DatasetOptions options;
  for (const DataSource& source : config.data.train) options.train.push_back({source.path, source.weight});
  for (const DataSource& source : config.data.valid) options.valid.push_back({source.path, source.weight});
  options.valid_fraction = config.data.valid.empty() ? config.data.valid_fraction : 0.0;
  options.sequence_length = config.data.sequence_length;
  options.vocab_size = config.model.vocab_size;
  options.seed = static_cast<uint64_t>(config.run.seed);
  options.mask_documents = config.data.mask_documents;
  return options;
}

std::vector<HostMicrobatch> views_of(const std::vector<HostBatch>& batches, bool mask_documents) {
  std::vector<HostMicrobatch> list;
  for (const HostBatch& b : batches) {
    list.push_back({b.tokens.dim(0), b.tokens.dim(1), b.tokens.data<int32_t>(), b.labels.data<int32_t>(),
                    b.positions.data<int32_t>(), mask_documents ? b.document_start.data<int32_t>() : nullptr});
  }
  return list;
}

ExpertMetrics expert_metrics(const MoeNumbers& numbers) {
  int64_t chosen = 0;
  for (const auto& layer : numbers.load) chosen = std::accumulate(layer.begin(), layer.end(), chosen);
  return {.imbalance = numbers.imbalance,
          .dropped_fraction = static_cast<double>(numbers.dropped) / static_cast<double>(std::max<int64_t>(1, chosen)),
          .router_entropy = numbers.entropy,
          .aux_loss = numbers.balance_loss,
          .z_loss = numbers.z_loss,
          .load = numbers.load};
}

}  // namespace

Trainer::Trainer(RankContext& rank, const Config& config, Console& console, Logger& logger, FileSystem& files)
    : rank_(rank), config_(config), console_(console), logger_(logger), files_(files) {
  const ModelConfig& model = config.model;
  if (model.rope.type == RopeType::none && config.data.sequence_length > model.max_positions) {
    throw ConfigError({.what = "data.sequence_length is longer than the model's position table",
                       .expected = "at most " + std::to_string(model.max_positions),
                       .found = std::to_string(config.data.sequence_length),
                       .where = "data.sequence_length",
                       .hint = "a larger n_positions"});
  }
  train_data_ = std::make_unique<Dataset>(dataset_options(config), Split::train);
  const bool has_valid = !config.data.valid.empty() || config.data.valid_fraction > 0;
  if (config.run.eval_every > 0 && has_valid) {
    valid_data_ = std::make_unique<Dataset>(dataset_options(config), Split::valid);
  }
  plan_ = make_run_plan(config, rank.mesh(), rank.device(), train_data_->num_tokens(), rank.pool().size());
}

int64_t Trainer::prepare() {
  model_ = std::make_unique<RankModel>(rank_, config_);
  if (rank_.is_main()) {
    for (const std::string& warning : config_warnings(config_)) logger_.warn(warning);
  }
  const RunStart start = load_run_start(rank_, config_, *model_, logger_, files_);
  tune_gemms(rank_, config_, model_->step, logger_);

  BatchPlanOptions options;
  options.global = config_.batch.global;
  options.micro = config_.batch.micro;
  options.data_degree = rank_.mesh().data_degree();
  options.ramp = config_.batch.ramp;
  options.first_step = start.step;
  options.first_consumed = start.consumed_samples;
  batches_ = std::make_unique<BatchPlan>(options);
  make_saver();
  return start.step;
}

std::vector<HostBatch> Trainer::next_batches(Loader& loader, int64_t step) const {
  const TraceRange range(rank_.stream(), "data");
  std::vector<HostBatch> batches;
  for (int64_t j = 0; j < batches_->num_microbatches(step); ++j) {
    std::optional<HostBatch> batch = loader.next();
    TRIREME_CHECK(batch.has_value(), "the loader ended before the run");
    batches.push_back(std::move(*batch));
  }
  return batches;
}

double Trainer::evaluate() {
  const TraceRange range(rank_.stream(), "evaluation");
  // The same windows every time: the first ones of the validation order, no more than there are.
  BatchPlanOptions options;
  options.global = config_.batch.global;
  options.micro = config_.batch.micro;
  options.data_degree = rank_.mesh().data_degree();
  const BatchPlan plan(options);
  const int64_t available = std::max<int64_t>(1, valid_data_->num_windows() / config_.batch.global);
  LoaderOptions loader_options;
  loader_options.data_rank = rank_.mesh().data_rank();
  loader_options.end_step = std::min(config_.run.eval_batches, available);
  Loader loader(*valid_data_, plan, loader_options);
  std::vector<HostBatch> batches;
  while (std::optional<HostBatch> batch = loader.next()) batches.push_back(std::move(*batch));
  return model_->step.evaluate(views_of(batches, config_.data.mask_documents));
}

void Trainer::make_saver() {
  CheckpointSaver::Options options;
  options.run_dir = config_.run.dir;
  options.host_buffer_bytes = config_.checkpoint.host_buffer_bytes;
  for (const Parameter& parameter : model_->state.parameters()) options.parameters.push_back(parameter.name);
  options.keep_last = config_.checkpoint.keep_last;
  options.keep_every = config_.checkpoint.keep_every;
  options.files = &files_;
  options.warn = [this](const std::string& text) { logger_.warn(text); };
  saver_ = std::make_unique<CheckpointSaver>(model_->model.buckets(), rank_.mesh(), rank_.world(), rank_.host_stream(),
                                             rank_.copy_stream(), std::move(options));
}

void Trainer::begin_save(int64_t finished_steps) {
  const TraceRange range(rank_.stream(), "checkpoint");
  CheckpointState state;
  state.step = finished_steps;
  state.consumed_samples = batches_->consumed(finished_steps);
  state.seed = config_.run.seed;
  state.layout = rank_.mesh().str() + ", zero " + std::to_string(config_.parallel.zero);
  state.config_yaml = dump_config(config_);
  held_up_by_saving([&] { saver_->begin(state, rank_.stream()); });
  last_save_ = finished_steps;
}

void Trainer::settle_save(int64_t finished_steps, bool must_succeed) {
  std::string problem;
  held_up_by_saving([&] { problem = saver_->settle(); });
  if (problem.empty()) return;
  if (!must_succeed) {
    if (rank_.is_main()) logger_.warn(problem);
    return;
  }
  throw MachineError({.what = "the run ends with its last steps unsaved; " + problem,
                      .where = saver_->path_of(finished_steps),
                      .hint = "the same command again, which continues from the newest checkpoint"});
}

void Trainer::held_up_by_saving(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  saving_seconds_ += std::chrono::duration<double>(Clock::now() - begin).count();
}

void Trainer::fail_not_finite(const std::vector<HostMicrobatch>& microbatches, int64_t step) {
  const std::string first = first_not_finite(rank_, *model_, microbatches);
  throw NumbersError(
      {.what = "the loss or the gradient norm is not finite in step " + std::to_string(step),
       .found = first.empty() ? "" : "the first NaN or Inf in " + first,
       .where = "rank " + std::to_string(rank_.rank()),
       .hint = "a lower optimizer.lr, a longer warm-up or precision.compute: fp32; nothing of this step was saved"});
}

void Trainer::run(const StopSignal& stop, const HangWatch::Speak& on_hang) {
  reporter_ = std::make_unique<RunReporter>(rank_, config_, console_, logger_);
  std::optional<HangWatch> watch;
  if (on_hang) {
    const HangWatch::Options options{.timeout = config_.run.hang_timeout,
                                     .directory = RunDirectory(config_.run.dir).hang(),
                                     .world_size = rank_.world_size(),
                                     .answer_seconds = std::min(10.0, config_.run.hang_timeout)};
    watch.emplace(rank_.recorder(), options, on_hang);
  }
  try {
    train(stop);
  } catch (const Error& error) {
    end_failed(error.code(), error.what());
    throw;
  } catch (const std::exception& error) {
    end_failed(ExitCode::bug, error.what());
    throw;
  }
}

// What went wrong first is what counts, also where the disk that it is written to is full.
void Trainer::end_failed(ExitCode code, const std::string& message) {
  try {
    reporter_->end(RunState::failed, finished_steps_, message, static_cast<int>(code));
  } catch (const MachineError& error) {
    logger_.warn(error.what());
  }
}

double Trainer::peak_flops() const {
  if (rank_.stream().device().type == DeviceType::cuda) return rank_.device().peak_flops(plan_.precision.compute);
  return cpu::measure_peak_gflops(rank_.pool(), plan_.precision.compute) * 1e9;
}

void Trainer::launch_step(Loader& loader, int64_t step, const StopSignal& stop) {
  rank_.recorder().set_step(step + 1);
  const TraceRange range(rank_.stream(), "step");
  StepInFlight flight;
  flight.step = step;
  flight.begin = Clock::now();
  const double waited = loader.waited_seconds();
  flight.batches = next_batches(loader, step);
  flight.data_wait_seconds = loader.waited_seconds() - waited;
  flight.lr = learning_rate(config_.optimizer, config_.run.steps, step);
  model_->step.forward_backward(views_of(flight.batches, config_.data.mask_documents), [&] {
    return HostNews{stop.received() != 0, saver_->writing()};
  });
  held_up_by_saving([&] { saver_->wait_copied(rank_.stream()); });
  model_->step.update(flight.lr, step + 1);
  in_flight_.push_back(std::move(flight));
}

StepMetrics Trainer::finish_step(double peak) {
  const StepInFlight flight = std::move(in_flight_.front());
  in_flight_.pop_front();
  const StepNumbers numbers = model_->step.take_numbers();
  if (numbers.non_finite) fail_not_finite(views_of(flight.batches, config_.data.mask_documents), flight.step + 1);
  if (numbers.valid_tokens == 0) {
    logger_.warn("step " + std::to_string(flight.step + 1) + " has no label that counts");
  }
  stop_asked_ = stop_asked_ || numbers.stop_asked;
  // What the ranks said in a step that was queued before the save began is about another one.
  if (saver_->in_flight() && flight.step >= last_save_ && !numbers.is_saving) {
    held_up_by_saving([&] { saver_->collect(); });
  }

  finished_steps_ = flight.step + 1;
  // A step that was queued behind another one began when that one ended.
  const Clock::time_point begin = std::max(flight.begin, last_finish_);
  last_finish_ = Clock::now();
  StepMetrics metrics;
  metrics.step = flight.step + 1;
  metrics.tokens = batches_->consumed(flight.step + 1) * config_.data.sequence_length;
  metrics.loss = numbers.loss;
  metrics.lr = flight.lr;
  metrics.grad_norm = numbers.grad_norm;
  metrics.step_seconds = std::chrono::duration<double>(last_finish_ - begin).count();
  metrics.exposed_comm_seconds = numbers.exposed_comm_seconds;
  metrics.bubble_seconds = numbers.bubble_seconds;
  last_program_ = numbers.program;
  if (config_.model.num_predictors > 0) metrics.prediction_loss = numbers.prediction_loss;
  if (!numbers.moe.load.empty()) metrics.experts = expert_metrics(numbers.moe);
  metrics.data_wait_seconds = flight.data_wait_seconds;
  metrics.memory_bytes = rank_.allocator().stats().peak_live_bytes;
  const double step_tokens = static_cast<double>(batches_->batch(flight.step) * config_.data.sequence_length);
  metrics.tokens_per_second = step_tokens / metrics.step_seconds;
  const double flops_per_rank = metrics.tokens_per_second * plan_.flops_per_token / rank_.world_size();
  metrics.tflops_per_rank = flops_per_rank * 1e-12;
  metrics.mfu = peak > 0 ? flops_per_rank / peak : 0.0;
  return metrics;
}

void Trainer::report(StepMetrics metrics) {
  metrics.time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  metrics.checkpoint_seconds = std::exchange(saving_seconds_, 0.0);
  saver_->report_finished();
  reporter_->step(metrics);
}

// A run goes on without a picture of itself.
void Trainer::draw(const std::function<void()>& work) {
  try {
    work();
  } catch (const MachineError& error) {
    logger_.warn(error.what());
  }
}

void Trainer::finish_trace(Profiler& profiler) {
  if (!profiler.recording()) return;
  draw([&] {
    profiler.finish();
    logger_.info("a trace is in " + profiler.file().string() + " (open it at ui.perfetto.dev)");
  });
}

void Trainer::draw_timeline(int64_t step) {
  const Schedule& schedule = model_->step.schedule(batches_->num_microbatches(step), /*forward_only=*/false);
  draw([&] {
    const auto svg =
        write_measured_timeline(rank_, schedule, last_program_, RunDirectory(config_.run.dir).traces(), step + 1);
    if (rank_.is_main()) logger_.info("the pipeline's timeline is in " + svg.string());
  });
}

void Trainer::train(const StopSignal& stop) {
  const int64_t first = prepare();
  finished_steps_ = first;
  const double peak = peak_flops();
  reporter_->begin(first, plan_);
  if (first < config_.run.steps) {
    saver_->rehearse();
  } else if (rank_.is_main()) {
    remove_leftovers(files_, config_.run.dir);  // it may have ended while it deleted an older checkpoint
  }
  LoaderOptions loader_options;
  loader_options.data_rank = rank_.mesh().data_rank();
  loader_options.first_step = first;
  loader_options.end_step = config_.run.steps;
  Loader loader(*train_data_, *batches_, loader_options);

  Profiler profiler(rank_, config_);
  // On a GPU the host runs one step ahead: it looks at the numbers of a step when the next one is queued.
  const bool runs_ahead = rank_.stream().asynchronous();
  for (int64_t step = first; step < config_.run.steps && !stop_asked_; ++step) {
    profiler.before_step(step + 1);
    launch_step(loader, step, stop);
    if (in_flight_.size() > 1) report(finish_step(peak));
    const bool last = step + 1 == config_.run.steps;
    const auto due = [&](int64_t every) { return every > 0 && (step + 1) % every == 0; };
    const bool evaluation_due = valid_data_ && (due(config_.run.eval_every) || last);
    const bool save_due = due(config_.checkpoint.every) || last;
    const bool trace_ends = profiler.ends_with(step + 1);
    const bool draws = rank_.mesh().degree(Axis::pipeline) > 1 && config_.profile.start &&
                       step + 1 == config_.profile.end.value_or(*config_.profile.start);
    const bool saves_behind = config_.checkpoint.async && !last && !stop_asked_;
    if (runs_ahead && !evaluation_due && (!save_due || saves_behind) && !stop_asked_ && !trace_ends && !draws) {
      if (save_due) begin_save(step + 1);
      continue;
    }
    StepMetrics metrics = finish_step(peak);
    if (draws) draw_timeline(step);
    if (evaluation_due) metrics.valid_loss = evaluate();
    if (save_due || stop_asked_) begin_save(step + 1);
    if (trace_ends || stop_asked_ || last) finish_trace(profiler);
    // The row comes before the checkpoint is in its place: a run that is killed between the two writes the row again, while
    // one the other way round would go on behind a row that is nowhere.
    report(metrics);
    const bool ends = last || stop_asked_;
    if (ends || (save_due && !config_.checkpoint.async)) settle_save(step + 1, /*must_succeed=*/ends);
    last_finish_ = Clock::now();
  }
  if (finished_steps_ < config_.run.steps) {
    reporter_->end(RunState::stopped, finished_steps_, "a signal asked for it", 0);
    logger_.info("stopped after step " + std::to_string(finished_steps_) + "; the same command continues");
  } else {
    reporter_->end(RunState::finished, finished_steps_, "", 0);
  }
}

}  // namespace trireme
