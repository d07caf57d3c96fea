#include "parallel/resolve.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "core/error.h"
#include "parallel/nearest.h"

namespace trireme {

namespace {

// Saturates: the degrees of a file may be anything, and what overflows is no number of ranks.
int64_t times(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

int64_t other_ranks(const ParallelConfig& c) { return times(times(c.tensor, c.context), c.pipeline); }

// The choices next to degrees that don't multiply to the world: another data degree, one other degree changed, other
// numbers of ranks. `heads`: the tensor degree must divide it; 0 where unknown.
std::string nearest_degrees(const ParallelConfig& c, int64_t world, int64_t heads) {
  const int64_t others = other_ranks(c);
  if (world % others == 0) return "parallel.data: " + std::to_string(world / others) + " (or auto)";
  std::string hint;
  const auto add = [&](const std::string& choice) { hint += (hint.empty() ? "" : ", or ") + choice; };
  const auto change = [&](const char* key, int64_t degree) {
    const int64_t rest = times(others / degree, c.data.value_or(1));
    if (degree == 1 || world % rest != 0) return;
    int64_t room = world / rest;
    if (heads > 0 && std::string(key) == "tensor") {
      if (c.data && heads % room != 0) return;
      room = std::gcd(room, heads);
    }
    const std::string near = c.data ? std::to_string(room) : nearest_divisors(room, degree);
    if (near != std::to_string(degree)) add("parallel." + std::string(key) + ": " + near);
  };
  change("tensor", c.tensor);
  change("context", c.context);
  change("pipeline", c.pipeline);
  if (others < std::numeric_limits<int64_t>::max() / 2) {
    add((c.data ? std::to_string(times(others, *c.data)) : nearest_multiples(others, world)) + " ranks");
  }
  return hint.empty() ? "smaller degrees" : hint;
}

int64_t resolve_data(const ParallelConfig& c, int64_t world, int64_t heads) {
  const int64_t others = other_ranks(c);
  const int64_t data = c.data.value_or(std::max<int64_t>(1, world / others));
  if (times(others, data) == world) return data;
  const std::string degrees = "data " + (c.data ? std::to_string(*c.data) : "auto") + " × tensor " +
                              std::to_string(c.tensor) + " × context " + std::to_string(c.context) + " × pipeline " +
                              std::to_string(c.pipeline);
  const std::string product =
      c.data ? " = " + std::to_string(times(others, data)) : ", a multiple of " + std::to_string(others);
  throw ConfigError({.what = "the degrees of parallelism don't multiply to the number of ranks",
                     .expected = std::to_string(world) + (world == 1 ? " rank" : " ranks"),
                     .found = degrees + product,
                     .where = "parallel",
                     .hint = nearest_degrees(c, world, heads)});
}

// Data ranks of one machine, where machines hold consecutive ranks: the data axis comes after tensor and context.
int64_t data_ranks_of_node(const ParallelConfig& c, int64_t data, int64_t ranks_per_node) {
  if (ranks_per_node == kUnknownNode) {
    throw ConfigError({.what = "parallel.zero_group: node needs the number of ranks of each machine, which isn't known",
                       .where = "parallel.zero_group",
                       .hint = "the number of data ranks of a machine, or all"});
  }
  const int64_t block = times(c.tensor, c.context);
  if (block % ranks_per_node == 0) return 1;
  const int64_t whole = std::min(data, ranks_per_node / block);
  // A machine holds whole data groups, or a data group whole machines; otherwise shards would lie across machines.
  if (ranks_per_node % (block * whole) == 0 && data % whole == 0) return whole;
  throw ConfigError({.what = "parallel.zero_group: node doesn't cut the data ranks into equal groups",
                     .expected = "machines that hold equal groups of data " + std::to_string(data) + " × tensor " +
                                 std::to_string(c.tensor) + " × context " + std::to_string(c.context),
                     .found = std::to_string(ranks_per_node) + " ranks per machine",
                     .where = "parallel.zero_group",
                     .hint = "parallel.zero_group: " + nearest_divisors(data, whole) + " (or all)"});
}

int64_t resolve_data_shard(const ParallelConfig& c, int64_t data, int64_t ranks_per_node) {
  if (c.zero == 0 || c.zero_group == kZeroGroupAll) return data;
  if (c.zero_group == kZeroGroupNode) return data_ranks_of_node(c, data, ranks_per_node);
  if (data % c.zero_group == 0) return c.zero_group;
  throw ConfigError({.what = "parallel.zero_group doesn't divide the data degree",
                     .expected = "a divisor of data " + std::to_string(data),
                     .found = std::to_string(c.zero_group),
                     .where = "parallel.zero_group",
                     .hint = "parallel.zero_group: " + nearest_divisors(data, c.zero_group) + " (or all)"});
}

// Experts are laid out over the ranks of a pipeline stage once more, in a way of their own. `experts`: the expert degree
// must divide it; 0 where unknown.
void check_expert_degrees(const ParallelConfig& c, int64_t data, int64_t experts) {
  const int64_t stage = times(times(c.tensor, c.context), data);
  const int64_t degrees = times(c.expert_tensor, c.expert);
  if (stage % degrees == 0) return;
  std::string hint;
  const auto change = [&](const char* key, int64_t degree, int64_t other, int64_t whole) {
    if (stage % other != 0) return;
    const int64_t room = std::gcd(stage / other, whole);
    hint += (hint.empty() ? "" : ", or ") + std::string(key) + ": " + nearest_divisors(room, degree);
  };
  if (c.expert > 1) change("parallel.expert", c.expert, c.expert_tensor, experts);  // gcd(n, 0) = n
  if (c.expert_tensor > 1) change("parallel.expert_tensor", c.expert_tensor, c.expert, 0);
  if (hint.empty()) {
    const int64_t room = std::gcd(stage, experts);
    hint = "parallel.expert_tensor: 1 with parallel.expert: " + nearest_divisors(room, c.expert);
  }
  throw ConfigError({.what = "the degrees of experts don't divide the ranks of a pipeline stage",
                     .expected = "a divisor of data " + std::to_string(data) + " × tensor " + std::to_string(c.tensor) +
                                 " × context " + std::to_string(c.context) + " = " + std::to_string(stage),
                     .found = "expert " + std::to_string(c.expert) + " × expert_tensor " +
                              std::to_string(c.expert_tensor) + " = " + std::to_string(degrees),
                     .where = c.expert > 1 ? "parallel.expert" : "parallel.expert_tensor",
                     .hint = hint});
}

Mesh make_mesh(const ParallelConfig& c, int64_t world, int64_t rank, int64_t ranks_per_node, int64_t heads,
               int64_t experts) {
  Mesh::Degrees degrees;
  degrees.tensor = c.tensor;
  degrees.context = c.context;
  degrees.pipeline = c.pipeline;
  const int64_t data = resolve_data(c, world, heads);
  degrees.data_shard = resolve_data_shard(c, data, ranks_per_node);
  degrees.data_replica = data / degrees.data_shard;
  check_expert_degrees(c, data, experts);
  degrees.expert = c.expert;
  degrees.expert_tensor = c.expert_tensor;
  return Mesh(degrees, rank);
}

// Head counts next to the model's that the tensor degree divides; kv-heads must divide the heads, too.
std::string nearest_heads(const ModelConfig& m, int64_t tensor) {
  const std::string heads_key = "model.num_attention_heads: ";
  if (m.num_kv_heads == m.num_heads) return heads_key + nearest_multiples(tensor, m.num_heads);
  const int64_t below = m.num_kv_heads / tensor * tensor;
  std::string hint;
  for (const int64_t kv : {below, below + tensor}) {
    if (kv == 0) continue;
    hint += (hint.empty() ? "" : ", or ") + heads_key + nearest_multiples(kv, m.num_heads) +
            " with model.num_key_value_heads: " + std::to_string(kv);
  }
  return hint;
}

void check_heads(const Config& config) {
  const int64_t tensor = config.parallel.tensor;
  const ModelConfig& m = config.model;
  const bool whole_heads = m.num_heads % tensor == 0;
  if (whole_heads && m.num_kv_heads % tensor == 0) return;
  throw ConfigError({.what = std::string("parallel.tensor doesn't divide the model's ") +
                             (whole_heads ? "kv-heads" : "attention heads"),
                     .expected = "a divisor of " + std::to_string(m.num_heads) + " heads and " +
                                 std::to_string(m.num_kv_heads) + " kv-heads",
                     .found = std::to_string(tensor),
                     .where = "parallel.tensor",
                     .hint = "parallel.tensor: " + nearest_divisors(std::gcd(m.num_heads, m.num_kv_heads), tensor) +
                             "; or " + nearest_heads(m, tensor)});
}

void check_experts(const Config& config) {
  const int64_t experts = config.model.experts.num_experts;
  const ParallelConfig& parallel = config.parallel;
  if (experts == 0) {
    for (const auto& [key, degree] :
         {std::pair("parallel.expert", parallel.expert), std::pair("parallel.expert_tensor", parallel.expert_tensor)}) {
      if (degree == 1) continue;
      throw ConfigError({.what = std::string(key) + " is above 1, and the model has no experts",
                         .expected = "1, or a model with experts",
                         .found = std::to_string(degree),
                         .where = key,
                         .hint = std::string(key) + ": 1"});
    }
    return;
  }
  if (experts % parallel.expert == 0) return;
  throw ConfigError({.what = "parallel.expert doesn't divide the model's experts",
                     .expected = "a divisor of " + std::to_string(experts) + " experts",
                     .found = std::to_string(parallel.expert),
                     .where = "parallel.expert",
                     .hint = "parallel.expert: " + nearest_divisors(experts, parallel.expert)});
}

}  // namespace

Mesh resolve_mesh(const ParallelConfig& config, int64_t world_size, int64_t rank, int64_t ranks_per_node) {
  return make_mesh(config, world_size, rank, ranks_per_node, /*heads=*/0, /*experts=*/0);
}

Mesh resolve(const Config& config, int64_t world_size, int64_t rank, int64_t ranks_per_node) {
  check_experts(config);
  const Mesh mesh =
      make_mesh(config.parallel, world_size, rank, ranks_per_node,
                std::gcd(config.model.num_heads, config.model.num_kv_heads), config.model.experts.num_experts);
  check_heads(config);
  resolve_virtual_stages(config.parallel);
  resolve_stages(config);
  return mesh;
}

int64_t resolve_microbatches(int64_t global, int64_t micro, int64_t data_degree) {
  const int64_t unit = times(micro, data_degree);
  if (global % unit == 0 && global > 0) return global / unit;
  throw ConfigError({.what = "the global batch doesn't divide into microbatches of all data ranks",
                     .expected = "batch.global a multiple of data " + std::to_string(data_degree) + " × batch.micro " +
                                 std::to_string(micro) + " = " + std::to_string(unit),
                     .found = std::to_string(global),
                     .where = "batch.global",
                     .hint = "batch.global: " + nearest_multiples(unit, global) + ", or another batch.micro"});
}

}  // namespace trireme
