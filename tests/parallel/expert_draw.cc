#include "tests/parallel/expert_draw.h"

#include <numeric>

#include "core/config/load.h"
#include "tests/parallel/layouts_numbers.h"

namespace trireme::layouts {

namespace {

std::vector<int64_t> divisors(int64_t n, int64_t most) {
  std::vector<int64_t> list;
  for (int64_t d = 1; d <= std::min(n, most); ++d) {
    if (n % d == 0) list.push_back(d);
  }
  return list;
}

// The kinds that take turns.
struct Router {
  const char* router;
  const char* balance;  // with the scope of the auxiliary loss
  const char* scope;
  const char* capacity;
  const char* drop;
};
constexpr Router kRouters[] = {
    {"topk", "aux", "microbatch", "null", "probability"},
    {"topk", "aux", "sequence", "null", "probability"},
    {"topk", "aux", "global", "null", "probability"},
    {"topk", "bias", "microbatch", "null", "probability"},
    {"topk", "none", "microbatch", "1.0", "probability"},
    {"topk", "aux", "microbatch", "1.25", "position"},
    {"switch", "aux", "microbatch", "1.0", "position"},
    {"base", "none", "microbatch", "null", "probability"},
    {"expert_choice", "none", "microbatch", "null", "probability"},
    {"hash", "none", "microbatch", "null", "probability"},
};

class Experts {
 public:
  // What may come on top is drawn from a sequence of its own, so that the rest of a layout doesn't depend on it.
  Experts(const Config& base, int number, Random& random, Random& additions)
      : base_(base),
        number_(number),
        random_(random),
        additions_(additions),
        router_(kRouters[number % std::ssize(kRouters)]) {}

  std::vector<std::string> sets() {
    const bool only_topk = std::string(router_.router) == "topk";
    family_ = only_topk ? random_.pick<std::string>({"mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"})
                        : random_.pick<std::string>({"mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2"});
    // More of the only family with modules of multi-token prediction.
    if (only_topk && additions_.below(3) == 0) family_ = "deepseek_v3";
    set_degrees();
    set_experts();
    set_family();
    if (std::string(router_.capacity) != "null" || !only_topk) {
      // Equal tokens in equal surroundings compete for an expert with equal scores; few are among so many.
      set("model.vocab_size", 1024);
      set("data.mask_documents", "false");
    }
    set("moe.router", router_.router);
    set("moe.balance", router_.balance);
    set("moe.aux_scope", router_.scope);
    set("moe.capacity_factor", router_.capacity);
    set("moe.drop", router_.drop);
    set("moe.aux_loss_coef", "0.05");
    set("moe.z_loss_coef", random_.below(2) == 0 ? "0" : "0.01");
    set("moe.bias_update_rate", "0.01");
    set("moe.dispatch", number_ % 3 == 0 ? "allgather" : "alltoall");
    set("moe.dispatch_chunks", random_.below(3) == 0 ? "3" : "1");
    if (family_ == "deepseek_v3") set("model.num_nextn_predict_layers", additions_.pick<int64_t>({1, 1, 2}));
    set_plus_plus();
    return std::move(sets_);
  }

 private:
  void set(const std::string& key, const std::string& value) { sets_.push_back(key + "=" + value); }
  void set(const std::string& key, int64_t value) { set(key, std::to_string(value)); }

  void set_degrees() {
    const int64_t stage = *base_.parallel.data * base_.parallel.tensor;
    expert_tensor_ = random_.pick(divisors(stage, 4));
    const std::vector<int64_t> degrees = divisors(stage / expert_tensor_, 16);
    // Every other layout has all ranks of a stage share out the experts, which often is more than the data degree.
    expert_ = random_.below(2) == 0 ? degrees.back() : random_.pick(degrees);
    set("parallel.expert", expert_);
    set("parallel.expert_tensor", expert_tensor_);
  }

  void set_experts() {
    const bool one = std::string(router_.router) == "switch" || std::string(router_.router) == "base";
    num_experts_ = expert_ * random_.pick<int64_t>({1, 2, 4});
    if (num_experts_ < 4) num_experts_ *= 4;
    slots_ = one ? 1 : 1 + random_.below(num_experts_ > 4 ? 3 : 2);
    groups_ = family_.starts_with("deepseek") && num_experts_ % 4 == 0 && std::string(router_.router) == "topk" ? 2 : 1;
    set(family_ == "mixtral"              ? "model.num_local_experts"
        : family_.starts_with("deepseek") ? "model.n_routed_experts"
                                          : "model.num_experts",
        num_experts_);
    set("model.num_experts_per_tok", slots_);
    if (family_ != "mixtral") set("model.moe_intermediate_size", random_.pick<int64_t>({8, 16, 19}));
  }

  void set_family() {
    set("model.model_type", family_);
    const ModelConfig& m = base_.model;
    if (family_ == "qwen2_moe") set("model.shared_expert_intermediate_size", 8 * base_.parallel.tensor + 3);
    if (family_.starts_with("qwen")) {
      set("model.norm_topk_prob", random_.below(2) == 0 ? "true" : "false");
      if (m.num_layers > 2 && random_.below(2) == 0) set("model.decoder_sparse_step", 2);
    }
    if (family_ == "qwen3_moe") set("model.head_dim", 8);
    if (!family_.starts_with("deepseek")) return;
    set("model.num_key_value_heads", m.num_heads);
    set("model.n_shared_experts", random_.below(3));
    set("model.first_k_dense_replace", m.num_layers > 2 ? random_.below(2) : 0);
    set("model.n_group", groups_);
    set("model.topk_group", 1);
    set("model.q_lora_rank", random_.below(2) == 0 ? "null" : "12");
    set("model.kv_lora_rank", 16);
    set("model.qk_nope_head_dim", 6);
    set("model.qk_rope_head_dim", 4);
    set("model.v_head_dim", random_.pick<int64_t>({6, 10, 12}));
    set("model.routed_scaling_factor", "1.5");
    if (family_ == "deepseek_v2") set("model.topk_method", groups_ > 1 ? "group_limited_greedy" : "greedy");
  }

  // Of MoE++ the experts that compute nothing, in two of three layouts where they are legal, and the gating residuals.
  void set_plus_plus() {
    const std::string router = router_.router;
    if (router != "hash" && additions_.below(4) > 0) set("moe.gating_residual", "true");
    const bool legal = (router == "topk" || router == "switch") && groups_ == 1;
    if (!legal || additions_.below(3) == 0) return;
    const int64_t num_zero = additions_.below(3);
    const int64_t num_copy = additions_.below(2);
    set("moe.zero_experts", num_zero);
    set("moe.copy_experts", num_copy);
    set("moe.constant_experts", num_zero + num_copy == 0 ? 1 : additions_.below(3));
    set("moe.constant_share", additions_.pick<std::string>({"0.5", "0.75", "1"}));
  }

  const Config& base_;
  int number_;
  Random& random_;
  Random& additions_;
  Router router_;
  std::string family_;
  int64_t expert_ = 1;
  int64_t expert_tensor_ = 1;
  int64_t num_experts_ = 4;
  int64_t slots_ = 1;
  int64_t groups_ = 1;
  std::vector<std::string> sets_;
};

}  // namespace

Draw draw_expert_layout(uint64_t seed, int number, int attempt) {
  // The levels of a block of dense layouts, again and again.
  static const std::vector<Draw> dense = draw_layouts(20261123, kBlock);
  const std::string which = std::to_string(number) + " " + std::to_string(attempt);
  Random random(random_key(seed, "experts " + which));
  Random additions(random_key(seed, "additions " + which));
  Levels levels = dense[static_cast<size_t>(number % kBlock)].levels;
  levels[kFamily] = static_cast<int>(ModelFamily::llama);
  levels[kPrecision] = 0;
  const bool full = number % 4 == 3 && can_be_full(levels);
  Draw draw{levels, exact_numbers(levels, full, random)};
  std::erase_if(draw.sets, [](const std::string& set) {
    return set.starts_with("model.model_type=") || set.starts_with("model.rope_scaling=");
  });
  const Config base = load_config(std::string(TRIREME_SOURCE_DIR) + "/tests/parallel/layouts.yaml", draw.sets);
  for (std::string& set : Experts(base, number, random, additions).sets()) {
    const std::string key = set.substr(0, set.find('=') + 1);
    std::erase_if(draw.sets, [&](const std::string& other) { return other.starts_with(key); });
    draw.sets.push_back(std::move(set));
  }
  return draw;
}

}  // namespace trireme::layouts
