#include "launcher/shrink.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

// With replicas of the shards beyond the sharding group.
bool has_replicas(const ParallelConfig& c) {
  if (c.zero == 0 || c.zero_group == kZeroGroupAll) return false;
  return c.zero_group == kZeroGroupNode ? c.data.value_or(4) > 2 : c.zero_group < c.data.value_or(INT64_MAX);
}

int64_t smallest_divisor(int64_t n) {
  for (int64_t d = 2; d <= n / d; ++d) {
    if (n % d == 0) return d;
  }
  return n;
}

// Experts on as many ranks of the stage as before, as far as the shrunken one goes; replicas of them stay.
void shrink_expert_degrees(const ParallelConfig& given, ParallelConfig& c) {
  const int64_t stage = *c.data * c.tensor * c.context;
  const int64_t given_stage = given.data.value_or(stage) * given.tensor * given.context;
  const auto shrunken = [](int64_t degree, int64_t room) {
    if (degree == 1 || room == 1) return int64_t{1};
    const int64_t common = std::gcd(degree, room);
    return common > 1 ? common : smallest_divisor(room);
  };
  c.expert_tensor = shrunken(given.expert_tensor, stage);
  if (given.expert > 1 && c.expert_tensor == stage) c.expert_tensor = stage / smallest_divisor(stage);
  c.expert = shrunken(given.expert, stage / c.expert_tensor);
  const bool replicas = given_stage > given.expert * given.expert_tensor;
  if (replicas && c.expert * c.expert_tensor == stage) {
    const int64_t rest = c.expert / smallest_divisor(c.expert);
    if (rest > 1) c.expert = rest;
  }
}

// Every degree named, and few ranks. Expert layers fold the ranks of the others, so that their degrees make none.
ParallelConfig shrink_degrees(const ParallelConfig& given) {
  ParallelConfig c = given;
  const bool shards_in_groups = has_replicas(given) && given.zero_group != 1;
  const int64_t least_data = shards_in_groups ? 4 : 2;  // two groups of two
  c.data = given.data.value_or(least_data);
  for (int64_t* degree : {&*c.data, &c.context, &c.pipeline, &c.tensor}) {
    const int64_t least = degree == &*c.data ? least_data : 2;
    const int64_t others = num_ranks(c) / *degree;
    if (*degree > least && *degree > kMaxShrunkenRanks / others) {
      *degree = std::max(least, kMaxShrunkenRanks / others);
    }
  }
  if (!has_replicas(given)) {
    c.zero_group = kZeroGroupAll;
  } else if (shards_in_groups && (c.data != given.data || given.zero_group == kZeroGroupNode)) {
    if (c.data != given.data) c.data = *c.data / 2 * 2;
    c.zero_group = smallest_divisor(*c.data);
  }
  shrink_expert_degrees(given, c);
  return c;
}

// The entry of a list of `to` that stands where entry `i` of a list of `from` does, both ends kept.
size_t place_in(size_t i, size_t from, size_t to) {
  if (i + 1 == from) return to - 1;
  return i < to - 1 ? i : std::max<size_t>(to, 2) - 2;
}

// One layer for each chunk, two where a given list has more than elsewhere, none where it has none.
void shrink_stages(const Config& config, Config& small) {
  const std::vector<int64_t> given = resolve_stages(config);
  const auto chunks = static_cast<size_t>(small.parallel.pipeline * resolve_virtual_stages(small.parallel));
  const auto [least, most] = std::minmax_element(given.begin(), given.end());
  const bool uneven = *most > std::max<int64_t>(*least, 1);
  std::vector<int64_t> stages(chunks);
  for (size_t i = 0; i < chunks; ++i) {
    const int64_t n = given[place_in(i, chunks, given.size())];
    stages[i] = n == 0 ? 0 : uneven && n == *most ? 2 : 1;
  }
  small.model.num_layers = std::accumulate(stages.begin(), stages.end(), int64_t{0});
  if (config.parallel.stages) {
    small.parallel.stages = stages;
  } else {
    // A split that doesn't come out even stays one.
    small.model.num_layers = static_cast<int64_t>(chunks) + (uneven && chunks > 1 ? 1 : 0);
  }
  if (chunks == 1) small.model.num_layers = std::min<int64_t>(config.model.num_layers, 2);
  if (chunks == 1 && config.parallel.stages) small.parallel.stages = std::vector<int64_t>{small.model.num_layers};
}

Config with(Config config, ParallelConfig parallel) {
  config.parallel = std::move(parallel);
  return config;
}

// A small multiple of `unit` near `target`; `off` makes it none.
int64_t multiple_near(int64_t target, int64_t unit, bool off) {
  const int64_t whole = std::max<int64_t>(1, target / unit) * unit;
  return off && unit > 1 ? whole + unit - 3 : whole;
}

void shrink_model(const Config& config, Config& small) {
  const ModelConfig& from = config.model;
  ModelConfig& m = small.model;
  const int64_t tensor = small.parallel.tensor;
  const int64_t from_tensor = config.parallel.tensor;
  const int64_t queries = from.num_heads / from.num_kv_heads;  // of each kv-head
  m.num_kv_heads = tensor * (from.num_kv_heads > from_tensor && tensor < 4 ? 2 : 1);
  m.num_heads = m.num_kv_heads * (queries > 1 && queries % 2 == 1 ? 3 : std::min<int64_t>(queries, 2));
  m.head_dim = 8;
  m.hidden_size = m.num_heads * m.head_dim;
  if (from.hidden_size != from.num_heads * from.head_dim) m.hidden_size += 8;
  // Narrow layers with the usual 0.02 would hardly attend; with much more, rounding grows from layer to layer.
  m.initializer_range = 0.4 / std::sqrt(static_cast<double>(m.hidden_size));
  const int64_t granule = 8;  // of split dims in memory
  const double ratio = static_cast<double>(from.ffn_size) / static_cast<double>(from.hidden_size);
  const auto width = static_cast<int64_t>(std::min(ratio, 3.0) * static_cast<double>(m.hidden_size));
  m.ffn_size = multiple_near(width, granule * tensor, from.ffn_size % (granule * from_tensor) != 0);
  m.vocab_size = multiple_near(96, granule * tensor, from.vocab_size % (granule * from_tensor) != 0);
  const bool longer = from.max_positions > config.data.sequence_length;
  small.data.sequence_length = config.data.sequence_length % from_tensor == 0 && config.data.sequence_length % 2 == 0
                                   ? 16
                                   : 17;  // no multiple of any tensor degree above 1 but 17's
  m.max_positions = small.data.sequence_length + (longer ? 7 : 0);
}

// A few experts for each rank, in groups of two or more, behind a dense layer where there were some.
void shrink_experts(const Config& config, Config& small) {
  const ExpertsConfig& from = config.model.experts;
  if (from.num_experts == 0) return;
  ModelConfig& m = small.model;
  ExpertsConfig& e = m.experts;
  const bool groups = from.num_groups > 1;
  e.num_experts = small.parallel.expert * (small.parallel.expert % 2 == 0 ? 2 : 4);
  e.num_groups = groups ? 2 : 1;
  e.groups_per_token = groups && from.groups_per_token == from.num_groups ? 2 : 1;
  e.top_k = std::min<int64_t>(from.top_k, 2);
  const int64_t granule = 8 * small.parallel.expert_tensor;
  e.ffn_size = multiple_near(16, granule, from.ffn_size % (8 * config.parallel.expert_tensor) != 0);
  if (m.family == ModelFamily::mixtral) m.ffn_size = e.ffn_size;
  e.shared_ffn_size = from.shared_ffn_size == 0              ? 0
                      : from.shared_ffn_size > from.ffn_size ? 2 * e.ffn_size
                                                             : e.ffn_size;
  e.num_dense_first = std::min<int64_t>({from.num_dense_first, 1, m.num_layers - 1});
  e.period = std::min<int64_t>({from.period, 2, m.num_layers});
  e.dense_layers.clear();
  if (!from.dense_layers.empty() && m.num_layers > 1) e.dense_layers = {0};
  for (int64_t* count : {&e.num_zero, &e.num_copy, &e.num_constant}) *count = std::min<int64_t>(*count, 1);
  small.moe.zero_experts = e.num_zero;
  small.moe.copy_experts = e.num_copy;
  small.moe.constant_experts = e.num_constant;
  m.num_predictors = std::min<int64_t>(m.num_predictors, 1);
}

void shrink_latent_attention(ModelConfig& m) {
  if (m.latent.kv_rank == 0) return;
  m.latent = {.q_rank = m.latent.q_rank > 0 ? 12 : 0, .kv_rank = 10, .nope_dim = 6, .rope_dim = 4, .v_dim = 7};
  m.head_dim = m.latent.nope_dim + m.latent.rope_dim;
}

void shrink_batch(const Config& config, Config& small) {
  const ParallelConfig& p = config.parallel;
  const int64_t data = p.data.value_or(1);
  const int64_t micro = config.batch.micro;
  const int64_t count = p.data ? resolve_microbatches(config.batch.global, micro, data)
                               : std::max<int64_t>(1, config.batch.global / (micro * *small.parallel.data));
  const int64_t group = p.microbatch_group.value_or(p.pipeline);
  if (small.parallel.microbatch_group) {
    // As far above the pipeline degree as before, but at most by one.
    *small.parallel.microbatch_group = small.parallel.pipeline + std::clamp<int64_t>(group - p.pipeline, 0, 1);
  }
  const int64_t small_group = small.parallel.microbatch_group.value_or(small.parallel.pipeline);
  int64_t small_count = std::min<int64_t>(count, 3);
  if (small_group > 1) {
    const int64_t rest = std::min(count % group, small_group - 1);
    small_count = std::max<int64_t>(1, std::min<int64_t>(count / group, 2) * small_group + rest);
  }
  small.batch.micro = std::min<int64_t>(micro, 2);
  small.batch.global = small_count * small.batch.micro * *small.parallel.data;
  small.batch.ramp.reset();
}

}  // namespace

int64_t num_ranks(const ParallelConfig& c) {
  int64_t ranks = 1;
  for (const int64_t degree : {c.data.value_or(1), c.tensor, c.context, c.pipeline}) {
    if (!__builtin_mul_overflow(ranks, degree, &ranks) && ranks < int64_t{1} << 40) continue;
    throw ConfigError({.what = "the degrees of parallelism make more ranks than any machine has",
                       .where = "parallel",
                       .hint = "smaller degrees"});
  }
  return ranks;
}

Config shrink(const Config& config) {
  // Whatever is wrong with the given layout is said of it, not of the shrunken one. Any data degree does where none is
  // given.
  ParallelConfig given = config.parallel;
  if (!given.data) given.data = std::max<int64_t>(1, given.zero_group);
  resolve(with(config, given), num_ranks(given), 0, num_ranks(given));

  Config small = with(config, shrink_degrees(config.parallel));
  shrink_stages(config, small);
  shrink_model(config, small);
  shrink_experts(config, small);
  shrink_latent_attention(small.model);
  shrink_batch(config, small);
  if (config.recompute.layers) {
    const int64_t all = config.model.num_layers;
    const int64_t some = (*config.recompute.layers * small.model.num_layers + all - 1) / std::max<int64_t>(1, all);
    const bool part = *config.recompute.layers > 0 && *config.recompute.layers < all;
    small.recompute.layers =
        part ? std::clamp<int64_t>(some, 1, std::max<int64_t>(1, small.model.num_layers - 1)) : some;
  }
  small.optimizer.lr = 1e-3;
  small.optimizer.eps = 1e-4;  // rounding of a gradient near zero moves no weight by more than 10 times itself
  small.optimizer.schedule = {.type = LrScheduleType::constant};
  small.run.threads = 1;
  small.checkpoint.init_from.reset();
  resolve(small, num_ranks(small.parallel), 0, num_ranks(small.parallel));
  return small;
}

}  // namespace trireme
