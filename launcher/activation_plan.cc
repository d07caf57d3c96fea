#include "launcher/activation_plan.h"

#include <algorithm>
#include <vector>

#include "models/loss_head.h"
#include "models/moe/carried_logits.h"

namespace trireme {

namespace {

constexpr int64_t kWord = 4;  // bytes of fp32 and i32

// Bytes of a layer, or of a half of one, for one microbatch.
struct Kept {
  int64_t always = 0;        // decisions: whatever is recomputed
  int64_t stashed = 0;       // between forward and backward, without the other two
  int64_t recomputable = 0;  // likewise; selective recomputation drops it
  int64_t backward = 0;      // beside these, while backward runs
  int64_t gradients = 0;     // of `backward`, what stays until its second half

  int64_t whole() const { return always + stashed + recomputable; }
};

// Sizes of one rank, for one microbatch.
class LayerSizes {
 public:
  LayerSizes(const Config& config, const ModelPlace& place, DType compute)
      : config_(config), m_(config.model), compute_(compute), width_(dtype_bytes(compute)) {
    tensor_ = place.tensor.size();
    tokens_ = config.batch.micro * config.data.sequence_length;
    rows_ = place.tensor.num_rows(tokens_);
    routed_ = place.tensor.cut_along_tokens().num_rows(tokens_);
    expert_tensor_ = place.mesh.degree(Axis::expert_tensor);
    dispatch_ = place.mesh.group_size(kDispatchAxes);
    local_experts_ = m_.experts.num_experts / place.mesh.degree(Axis::expert);
  }

  int64_t tokens() const { return tokens_; }
  int64_t hidden() const { return rows_ * m_.hidden_size * width_; }        // [n, C]
  int64_t all_hidden() const { return tokens_ * m_.hidden_size * width_; }  // [N, C]
  // What the layer is handed.
  int64_t input(int64_t layer) const { return rows_ * hidden_columns(m_, layer, compute_) * width_; }

  Kept layer(int64_t layer) const {
    const Kept attention = m_.latent.kv_rank > 0 ? latent_attention() : grouped_query_attention();
    const Kept feed_forward = m_.has_experts(layer) ? experts(layer) : mlp(m_.ffn_size);
    const int64_t statistics = (m_.norm == NormKind::layer ? 4 : 2) * rows_ * kWord;
    const int64_t carried = carries_logits(m_, layer + 1) ? input(layer + 1) : 0;  // beside the hidden state in it
    Kept all{.always = attention.always + feed_forward.always,
             .stashed = attention.stashed + feed_forward.stashed + 2 * hidden() + statistics,
             .recomputable = attention.recomputable + feed_forward.recomputable + 2 * hidden()};
    // The gradients of what comes out and goes in, and between the halves.
    all.backward = hidden() + carried +
                   std::max(feed_forward.backward, feed_forward.gradients + 2 * hidden() + attention.backward);
    return all;
  }

  int64_t vocab() const { return share(m_.vocab_size); }

 private:
  int64_t share(int64_t n) const { return (n + tensor_ - 1) / tensor_; }

  Kept grouped_query_attention() const {
    const int64_t heads = m_.num_heads / tensor_;
    const int64_t kv_heads = m_.num_kv_heads / tensor_;
    const int64_t qkv = tokens_ * (heads + 2 * kv_heads) * m_.head_dim * width_;
    const int64_t attention = tokens_ * heads * m_.head_dim * width_;
    Kept kept{.stashed = qkv + attention + tokens_ * heads * kWord, .backward = qkv + attention};
    if (m_.qk_norm) {
      kept.stashed += tokens_ * (heads + kv_heads) * kWord;
      kept.recomputable += qkv;
    }
    return kept;
  }

  Kept latent_attention() const {
    const LatentAttentionConfig& l = m_.latent;
    const int64_t heads = m_.num_heads / tensor_;
    const int64_t qk = l.nope_dim + l.rope_dim;
    const int64_t attention = tokens_ * heads * std::max(qk, l.v_dim) * width_;
    const int64_t latents = rows_ * (l.q_rank + l.kv_rank) * width_;
    const int64_t gradients = tokens_ * (heads * (qk + l.nope_dim + l.v_dim) + l.rope_dim) * width_;
    return {.stashed = latents + 2 * rows_ * kWord + 4 * attention + tokens_ * heads * kWord,
            .recomputable = latents,
            .backward = 4 * attention + gradients + 2 * latents};
  }

  Kept mlp(int64_t ffn_size) const {
    const int64_t activated = tokens_ * share(ffn_size) * width_;
    const int64_t up = (m_.activation == Activation::swiglu ? 2 : 1) * activated;
    return {.stashed = up, .recomputable = activated, .backward = activated + up};
  }

  // Rows at this rank's experts.
  int64_t expert_rows() const {
    const ExpertsConfig& e = m_.experts;
    const bool by_experts = config_.moe.router == MoeRouter::expert_choice;
    const double per_token = by_experts ? config_.moe.capacity_factor.value_or(1.0) * static_cast<double>(e.top_k)
                                        : static_cast<double>(e.top_k);
    const double real = static_cast<double>(e.num_experts) / static_cast<double>(e.num_choices());
    return static_cast<int64_t>(static_cast<double>(routed_ * expert_tensor_) * per_token * real);
  }

  Kept experts(int64_t layer) const {
    const ExpertsConfig& e = m_.experts;
    const int64_t slots = config_.moe.router == MoeRouter::expert_choice ? e.num_experts : e.top_k;
    const int64_t scores = routed_ * e.num_choices() * kWord;
    const int64_t pairs = routed_ * slots * kWord;
    const int64_t logits = rows_ * e.num_choices() * kWord;  // that came with the hidden state
    // Router: logits and scores; decisions, twice where an expert may be full.
    Kept kept{.always = pairs * (config_.moe.capacity_factor ? 2 : 1), .stashed = 2 * scores};
    if (has_gate_residual(m_, layer)) kept.stashed += logits;
    // The plan of the way.
    const int64_t rows = expert_rows();
    kept.stashed += 2 * pairs * expert_tensor_;
    if (dispatch_ > 1 && local_experts_ > 1) kept.stashed += 2 * rows * kWord;
    // Experts.
    const int64_t at_experts = rows * m_.hidden_size * width_;
    const int64_t activated = rows * ((e.ffn_size + expert_tensor_ - 1) / expert_tensor_) * width_;
    kept.stashed += at_experts + rows * kWord + 2 * activated;
    kept.recomputable += activated;
    const int64_t travels = (dispatch_ > 1 ? 4 : 2) * at_experts;
    kept.backward = std::max(2 * at_experts + 3 * activated, travels);
    kept.gradients = at_experts;
    if (e.shared_ffn_size > 0) {
      const Kept shared = mlp(e.shared_ffn_size);
      kept.stashed += shared.stashed;
      kept.recomputable += shared.recomputable;
      kept.backward = std::max(kept.backward + hidden(), shared.backward);
      if (e.shared_gate) kept.stashed += hidden() + 2 * rows_ * kWord;
    }
    if (e.num_copy + e.num_constant > 0) {
      kept.stashed += pairs + routed_ * (1 + 3 * e.num_constant) * kWord;
      // They read the normed hidden state, which then selective recomputation can't drop.
      if (config_.recompute.mode == RecomputeMode::selective) kept.stashed += hidden();
    }
    return kept;
  }

  const Config& config_;
  const ModelConfig& m_;
  DType compute_;
  int64_t width_;
  int64_t tensor_;
  int64_t tokens_;  // N
  int64_t rows_;    // n, between the blocks
  int64_t routed_;  // of them or of all, those that this rank routes
  int64_t expert_tensor_;
  int64_t dispatch_;
  int64_t local_experts_;
};

RecomputeMode mode_of(const RecomputeConfig& recompute, int64_t layer) {
  return !recompute.layers || layer < *recompute.layers ? recompute.mode : RecomputeMode::none;
}

// The loss head while its forward runs, and the modules of multi-token prediction in it.
int64_t head_bytes(const Config& config, const LayerSizes& sizes, DeviceType device, DType compute) {
  const LossHead::Chunks cut = LossHead::chunks(device, compute, sizes.tokens(), sizes.vocab());
  int64_t logits = cut.bytes(sizes.vocab());
  if (cut.dtype != compute) logits += cut.tokens * sizes.vocab() * dtype_bytes(compute);  // their gradient
  // What comes in, normed, and the gradient of that.
  const int64_t own = sizes.hidden() + 2 * sizes.all_hidden() + logits + sizes.tokens() * kWord;
  const int64_t num_predictors = config.model.num_predictors;
  if (num_predictors == 0) return own;
  const Kept block = sizes.layer(config.model.num_layers);
  // Embedding, the two joined, the gradient and what goes out.
  const int64_t module = block.whole() + 5 * sizes.hidden();
  return num_predictors * module + std::max(own, 2 * sizes.hidden() + block.backward);
}

// Of one chunk, for one microbatch.
struct ChunkBytes {
  int64_t stashed = 0;   // from forward to backward
  int64_t whole = 0;     // between the halves of backward: what was dropped has been computed again
  int64_t forward = 0;   // beside the stash, while forward runs
  int64_t backward = 0;  // likewise backward in one, which frees layer by layer
  int64_t halves = 0;    // likewise its first half alone, beside `whole`
};

ChunkBytes chunk_bytes(const RecomputeConfig& recompute, const LayerSizes& sizes, int64_t first, int64_t end) {
  ChunkBytes chunk;
  for (int64_t layer = first; layer < end; ++layer) {
    const Kept kept = sizes.layer(layer);
    const RecomputeMode mode = mode_of(recompute, layer);
    const int64_t stashed = mode == RecomputeMode::full        ? sizes.input(layer) + kept.always
                            : mode == RecomputeMode::selective ? kept.always + kept.stashed
                                                               : kept.whole();
    const int64_t again = kept.whole() - stashed;
    // The layers behind have gone when this one's turn comes.
    chunk.backward = std::max(chunk.backward - stashed, again + kept.backward);
    chunk.halves = std::max(chunk.halves, kept.backward);
    chunk.stashed += stashed;
    chunk.whole += kept.whole();
  }
  return chunk;
}

}  // namespace

int64_t plan_activations(const Config& config, const ModelPlace& place, const Schedule& schedule, int stage,
                         DeviceType device, DType compute) {
  const LayerSizes sizes(config, place, compute);
  std::vector<ChunkBytes> chunks;
  int64_t layer = 0;
  for (const int64_t num_layers : place.layers_of_chunk) {
    chunks.push_back(chunk_bytes(config.recompute, sizes, layer, layer + num_layers));
    layer += num_layers;
  }
  chunks.back().forward = head_bytes(config, sizes, device, compute);
  int64_t live = 0;
  int64_t peak = 0;
  for (const Action& action : schedule.program(stage)) {
    const ChunkBytes& chunk = chunks[static_cast<size_t>(action.chunk)];
    switch (action.kind) {
      case ActionKind::forward:
        live += chunk.stashed;
        peak = std::max(peak, live + chunk.forward);
        break;
      case ActionKind::backward:
        peak = std::max(peak, live + chunk.backward);
        live -= chunk.stashed;
        break;
      case ActionKind::backward_input:
        live += chunk.whole - chunk.stashed;
        peak = std::max(peak, live + chunk.halves);
        break;
      case ActionKind::backward_weight: live -= chunk.whole; break;
      default: break;  // transfers
    }
  }
  return peak;
}

}  // namespace trireme
