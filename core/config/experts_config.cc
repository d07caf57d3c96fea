#include "core/config/experts_config.h"

#include "core/config/fields.h"
#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

namespace {

bool is_given(const KeyPlaces& places, const std::string& key) { return places.contains(key); }

bool same_value(const FieldRef& a, const FieldRef& b) {
  return std::visit(
      [&b](const auto& left) {
        using T = std::decay_t<decltype(left)>;
        const T& right = std::get<T>(b);
        if constexpr (std::is_same_v<T, EnumRef>) {
          return left.get() == right.get();
        } else {
          return *left == *right;
        }
      },
      a);
}

// The fields of the moe section, in order.
class MoeFields final : public FieldVisitor {
 public:
  explicit MoeFields(Config& config) { describe(*this, config); }

  void field(const FieldSpec& spec, const FieldRef& value) override {
    if (inside_) fields.emplace_back(spec.name, value);
  }
  void section(const FieldSpec& spec, const SectionRef& section) override {
    if (spec.name != "moe") return;
    inside_ = true;
    section.describe(*this, 0);
    inside_ = false;
  }

  std::vector<std::pair<std::string, FieldRef>> fields;

 private:
  bool inside_ = false;
};

// A dumped configuration has every key, so that only one with another value than the default asks for something.
void refuse_for_dense(const Config& config, const KeyPlaces& places) {
  Config given = config;
  Config defaults;
  const MoeFields fields(given);
  const MoeFields plain(defaults);
  for (size_t i = 0; i < fields.fields.size(); ++i) {
    const auto& [name, value] = fields.fields[i];
    if (same_value(value, plain.fields[i].second)) continue;
    throw ConfigError({.what = "moe." + name + " is given, and the model has no experts",
                       .expected = "a model with experts: mixtral, qwen2_moe, qwen3_moe, deepseek_v2 or deepseek_v3",
                       .found = "model.model_type " + to_string(config.model.family),
                       .where = place_of(places, "moe." + name),
                       .hint = "leaving moe." + name + " out"});
  }
}

// The assignment is even whatever the scores are.
bool is_even_by_itself(MoeRouter router) {
  return router == MoeRouter::base || router == MoeRouter::expert_choice || router == MoeRouter::hash;
}

// `value`: what would go with the router; empty: nothing would.
[[noreturn]] void refuse_with_router(const Config& config, const KeyPlaces& places, const std::string& key,
                                     const std::string& value, const std::string& expected, const std::string& found) {
  throw ConfigError({.what = key + " doesn't go with moe.router " + to_string(config.moe.router),
                     .expected = expected,
                     .found = found,
                     .where = place_of(places, is_given(places, key) ? key : "moe.router"),
                     .hint = (value.empty() ? "" : key + ": " + value + ", or ") + "moe.router: topk"});
}

void check_router(const Config& config, const KeyPlaces& places) {
  const MoeConfig& moe = config.moe;
  const ExpertsConfig& experts = config.model.experts;
  if (moe.router == MoeRouter::topk) return;
  const bool one = moe.router == MoeRouter::switch_top1 || moe.router == MoeRouter::base;
  if (one && experts.top_k != 1) {
    refuse_with_router(config, places, "model.num_experts_per_tok", "1", "1", std::to_string(experts.top_k));
  }
  if (moe.router == MoeRouter::switch_top1) return;
  if (moe.balance != MoeBalance::none) {
    refuse_with_router(config, places, "moe.balance", "none", "none, for the router is even by itself",
                       to_string(moe.balance));
  }
  if (experts.score_bias) {
    refuse_with_router(config, places, "model.model_type", "", "a model without a selection bias of its experts",
                       to_string(config.model.family));
  }
  if (experts.num_groups > 1) {
    refuse_with_router(config, places, "model.n_group", "1", "1", std::to_string(experts.num_groups));
  }
  if (experts.num_choices() != experts.num_experts) {
    const std::string key = experts.num_zero > 0   ? "moe.zero_experts"
                            : experts.num_copy > 0 ? "moe.copy_experts"
                                                   : "moe.constant_experts";
    refuse_with_router(config, places, key, "0", "0",
                       std::to_string(experts.num_choices() - experts.num_experts) + " experts that compute nothing");
  }
  if (moe.router == MoeRouter::base && moe.capacity_factor) {
    refuse_with_router(config, places, "moe.capacity_factor", "null", "null, for every expert gets an even share",
                       exact_real(*moe.capacity_factor));
  }
}

}  // namespace

void settle_experts(Config& config, const KeyPlaces& places, std::optional<double> model_coef) {
  ExpertsConfig& experts = config.model.experts;
  MoeConfig& moe = config.moe;
  if (experts.num_experts == 0) return refuse_for_dense(config, places);
  experts.num_zero = moe.zero_experts;
  experts.num_copy = moe.copy_experts;
  experts.num_constant = moe.constant_experts;
  experts.gating_residual = moe.gating_residual;
  if (is_even_by_itself(moe.router) && !is_given(places, "moe.balance")) moe.balance = MoeBalance::none;
  if (moe.balance == MoeBalance::bias) experts.score_bias = true;
  if (!moe.aux_loss_coef) moe.aux_loss_coef = model_coef.value_or(0.01);
}

void check_experts(const Config& config, const KeyPlaces& places) {
  const MoeConfig& moe = config.moe;
  const ExpertsConfig& experts = config.model.experts;
  if (experts.num_experts == 0) return;
  if (moe.capacity_factor && *moe.capacity_factor < 1) {
    throw ConfigError({.what = "capacity below one: with moe.capacity_factor the experts can't take an even share",
                       .expected = "at least 1, or null: no token is dropped",
                       .found = exact_real(*moe.capacity_factor),
                       .where = place_of(places, "moe.capacity_factor"),
                       .hint = "moe.capacity_factor: 1.25"});
  }
  if (experts.num_groups > 1 && experts.num_choices() != experts.num_experts) {
    throw ConfigError({.what = "experts that compute nothing belong to no group, and model.n_group makes groups",
                       .expected = "model.n_group: 1",
                       .found = std::to_string(experts.num_groups),
                       .where = place_of(places, "model.n_group"),
                       .hint = "model.n_group: 1 with model.topk_group: 1"});
  }
  check_router(config, places);
}

std::vector<std::string> config_warnings(const Config& config) {
  std::vector<std::string> warnings;
  if (config.model.experts.num_experts > 0 && config.moe.router == MoeRouter::expert_choice) {
    warnings.push_back(
        "moe.router expert_choice is not causal: which tokens an expert takes depends on the tokens behind them, so "
        "the loss is not that of a model which writes one token after another");
  }
  return warnings;
}

}  // namespace trireme
