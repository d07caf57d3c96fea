#include "launcher/model_work.h"

#include "core/error.h"
#include "core/trace/tracer.h"
#include "models/moe/carried_logits.h"

namespace trireme {

ModelWork::ModelWork(const Transformer& model, const std::vector<RecomputeMode>& recompute, UnitHooks& hooks)
    : model_(model), hooks_(&hooks) {
  const std::vector<Unit*> units = model.units();
  for (const ModelChunk& chunk : model.chunks()) {
    const auto first = static_cast<std::ptrdiff_t>(chunk.first_unit);
    const auto end = first + static_cast<std::ptrdiff_t>(chunk.num_units);
    runners_.emplace(chunk.chunk, StageRunner({units.begin() + first, units.begin() + end},
                                              {recompute.begin() + first, recompute.begin() + end}, chunk.first_unit));
  }
}

void ModelWork::begin(std::span<const HostMicrobatch> microbatches, const Tensor& loss_sum, const Tensor& grad_scale) {
  TRIREME_CHECK(stashes_.empty() && microbatches_.empty(), "the pass before hasn't ended");
  host_ = microbatches;
  loss_sum_ = loss_sum;
  grad_scale_ = grad_scale;
}

void ModelWork::run_plain(Stream& stream, const Microbatch& microbatch) const {
  const StageRunner& stage = runner(0);
  NoHooks none;
  StageStash stash;
  stage.forward(stream, microbatch, {}, stash, none);
  stage.backward(stream, microbatch, {}, stash, none);
}

const StageRunner& ModelWork::runner(int chunk) const {
  const auto found = runners_.find(chunk);
  TRIREME_CHECK(found != runners_.end(), "a chunk of another rank");
  return found->second;
}

const Microbatch& ModelWork::on_device(Stream& stream, int microbatch) {
  auto found = microbatches_.find(microbatch);
  if (found == microbatches_.end()) {
    const auto i = static_cast<size_t>(microbatch);
    OnDevice added{upload(stream, host_[i], loss_sum_, grad_scale_), runners_.size()};
    const int64_t data_degree = model_.place().mesh.data_degree();
    added.microbatch.data_degree = data_degree;
    added.microbatch.share = 1.0 / static_cast<double>(std::ssize(host_) * data_degree);
    added.microbatch.num_so_far = microbatch + 1;
    if (model_.head() != nullptr && added.microbatch.with_gradients) {
      add_ahead(stream, host_[i], model_.config().num_predictors, added.microbatch);
      added.microbatch.prediction_loss_sum = prediction_loss_sum_;
    }
    if (!logits_.empty()) added.microbatch.logits = logits_[i];
    found = microbatches_.emplace(microbatch, std::move(added)).first;
  }
  return found->second.microbatch;
}

void ModelWork::finished(int chunk, int microbatch) {
  stashes_.erase({chunk, microbatch});
  const auto found = microbatches_.find(microbatch);
  if (--found->second.unfinished == 0) microbatches_.erase(found);
}

Tensor ModelWork::empty_hidden(Stream& stream, int chunk, int microbatch) {
  const HostMicrobatch& host = host_[static_cast<size_t>(microbatch)];
  const int64_t rows = model_.place().tensor.num_rows(host.batch * host.sequence);
  const ModelPlace& place = model_.place();
  int64_t layer = 0;
  for (int before = 0; before < chunk; ++before) layer += place.layers_of_chunk[static_cast<size_t>(before)];
  return Tensor::empty(stream, {rows, hidden_columns(model_.config(), layer, model_.compute())}, model_.compute());
}

// Of a range in a trace.
std::string ModelWork::name_of(int chunk, int microbatch, const char* what) const {
  std::string name = "microbatch " + std::to_string(microbatch) + " " + what;
  if (model_.place().layers_of_chunk.size() > 1) name += ", chunk " + std::to_string(chunk);
  return name;
}

Tensor ModelWork::forward(Stream& stream, int chunk, int microbatch, const Tensor& x) {
  const std::string name = name_of(chunk, microbatch, "forward");
  const TraceRange range(stream, name);
  const Microbatch& input = on_device(stream, microbatch);
  StageStash& stash = stashes_[{chunk, microbatch}];
  const Tensor y = runner(chunk).forward(stream, input, x, stash, *hooks_);
  if (!input.with_gradients) finished(chunk, microbatch);
  return y;
}

Tensor ModelWork::backward(Stream& stream, int chunk, int microbatch, const Tensor& dy) {
  const std::string name = name_of(chunk, microbatch, "backward");
  const TraceRange range(stream, name);
  const Tensor dx =
      runner(chunk).backward(stream, on_device(stream, microbatch), dy, stashes_.at({chunk, microbatch}), *hooks_);
  finished(chunk, microbatch);
  return dx;
}

Tensor ModelWork::backward_input(Stream& stream, int chunk, int microbatch, const Tensor& dy) {
  const std::string name = name_of(chunk, microbatch, "backward input");
  const TraceRange range(stream, name);
  return runner(chunk).backward_input(stream, on_device(stream, microbatch), dy, stashes_.at({chunk, microbatch}),
                                      *hooks_);
}

void ModelWork::backward_weight(Stream& stream, int chunk, int microbatch) {
  const std::string name = name_of(chunk, microbatch, "backward weight");
  const TraceRange range(stream, name);
  runner(chunk).backward_weight(stream, on_device(stream, microbatch), stashes_.at({chunk, microbatch}), *hooks_);
  finished(chunk, microbatch);
}

}  // namespace trireme
