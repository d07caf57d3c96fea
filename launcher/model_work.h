// The chunks of a model on this rank, as the pipeline executor drives them: keeps the microbatches and stashes of one
// pass.
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "launcher/microbatch.h"
#include "models/transformer.h"
#include "parallel/pipeline/pipeline_work.h"
#include "parallel/stage.h"

namespace trireme {

class ModelWork final : public PipelineWork {
 public:
  // `model` and `hooks` outlive the object. `recompute` has an entry for each unit of the model on this rank.
  ModelWork(const Transformer& model, const std::vector<RecomputeMode>& recompute, UnitHooks& hooks);

  // The microbatches of the pass that begins. `loss_sum` f64 [1]: where the loss head adds its losses. With gradients where
  // `grad_scale` (f32 [1]) is defined. Host memory stays as it is until the pass has ended.
  void begin(std::span<const HostMicrobatch> microbatches, const Tensor& loss_sum, const Tensor& grad_scale);
  // f64 [1]: where modules of multi-token prediction add their losses, from now on. REQUIRED of a model that has some.
  void set_prediction_loss_sum(const Tensor& sum) { prediction_loss_sum_ = sum; }
  // Where the loss head shall leave its logits: for each microbatch, f32 [N, rows of the table here].
  void keep_logits(std::vector<Tensor> logits) { logits_ = std::move(logits); }

  // Forward and backward of one microbatch through a model that is one chunk, without the hooks (for graphs).
  void run_plain(Stream& stream, const Microbatch& microbatch) const;
  // Others from now on, which outlive the object or the next call.
  void use_hooks(UnitHooks& hooks) { hooks_ = &hooks; }

  Tensor empty_hidden(Stream& stream, int chunk, int microbatch) override;
  Tensor forward(Stream& stream, int chunk, int microbatch, const Tensor& x) override;
  Tensor backward(Stream& stream, int chunk, int microbatch, const Tensor& dy) override;
  Tensor backward_input(Stream& stream, int chunk, int microbatch, const Tensor& dy) override;
  void backward_weight(Stream& stream, int chunk, int microbatch) override;

 private:
  struct OnDevice {
    Microbatch microbatch;
    size_t unfinished = 0;  // chunks of this rank that will still use it
  };

  const StageRunner& runner(int chunk) const;
  const Microbatch& on_device(Stream& stream, int microbatch);
  void finished(int chunk, int microbatch);
  std::string name_of(int chunk, int microbatch, const char* what) const;

  const Transformer& model_;
  UnitHooks* hooks_;
  std::map<int, StageRunner> runners_;  // by chunk
  std::span<const HostMicrobatch> host_;
  Tensor loss_sum_, grad_scale_;
  Tensor prediction_loss_sum_;
  std::vector<Tensor> logits_;
  std::map<int, OnDevice> microbatches_;
  std::map<std::pair<int, int>, StageStash> stashes_;  // by chunk and microbatch
};

}  // namespace trireme
