// The feed-forward half with experts:
//
//   y = Σ_k w_k · expert_{e_k}(x) [+ shared(x), or sigmoid(g·x) · shared(x)]
//
// where experts of MoE++ (light_experts.h) may be among the chosen.
//
// Each rank routes the rows that it holds; where hidden states are whole on every tensor rank, its share of them
// (TensorGroup::cut_along_tokens), and the outputs are gathered. So gradients of the router are partial over the tensor
// group, and those of experts over the ranks that hold the same ones.
//
// Tokens travel in `moe.dispatch_chunks` parts, each while the experts work on the one before, and the first one while the
// shared experts work.
#pragma once

#include "core/config/config.h"
#include "models/block_half.h"
#include "models/mlp.h"
#include "models/moe/dispatcher.h"
#include "models/moe/experts.h"
#include "models/moe/light_experts.h"
#include "models/moe/router.h"
#include "models/parameter_names.h"

namespace trireme {

class MoeMlp final : public BlockHalf {
 public:
  MoeMlp(const ModelConfig& config, const ParameterNames& names, int64_t moe_layer, const MoeSetup& setup,
         bool gate_residual = false);

  void list_weights(std::vector<Weight*>& list) override;
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                 Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Tensor normed, Stash& stash) override;

  // The same with logits that travel between routers (carried_logits.h), f32 [n, E]: those of the router before, for all
  // rows of `normed`, and this one's, of the rows from first_own_row on. Backward has their gradients. Undefined: none.
  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& normed, const Tensor& residual,
                 const Tensor& before, Tensor& logits, Stash& stash);
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, const Tensor& dlogits,
                        Tensor& dbefore, Stash& stash);
  int64_t first_own_row(const Microbatch& microbatch) const;
  void drop_recomputable(Stash& stash) override;
  void recompute(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  // Rows [begin, end) of this rank's that travel together.
  struct Chunk {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t max_tokens = 0;  // on any rank
  };
  std::vector<Chunk> chunks(const Microbatch& microbatch) const;
  // The rows of a hidden state that this rank routes, and back.
  Tensor own_rows(const Tensor& x, const Microbatch& microbatch) const;
  Tensor all_rows(Stream& stream, const Tensor& rows, const Microbatch& microbatch) const;

  void add_shared(Stream& stream, const Tensor& normed, const Tensor& shared, Tensor& y, Stash& stash) const;
  Tensor shared_backward(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) const;

  TensorGroup tensor_;
  TensorGroup rows_;  // cut along the tokens
  Router router_;
  Experts experts_;
  LightExperts light_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<Mlp> shared_;  // none without shared experts
  Weight shared_gate_;           // [1, C], or none
  int64_t num_chunks_;
};

}  // namespace trireme
