#include "parallel/resolve.h"

#include <algorithm>

#include "core/error.h"

namespace trireme {

namespace {

// The ranks that share shards, of `data` along the data axis.
int64_t resolve_zero_group(const ParallelConfig& config, int64_t data, int64_t ranks_per_node) {
  if (config.zero == 0 || config.zero_group == kZeroGroupAll) return data;
  const bool node = config.zero_group == kZeroGroupNode;
  const int64_t inner = config.tensor * config.context;  // neighbours on the other axes
  const bool fits = !node || ranks_per_node % inner == 0;
  const int64_t group = node ? std::min(data, std::max<int64_t>(1, ranks_per_node / inner)) : config.zero_group;
  if (fits && data % group == 0) return group;
  std::string legal;
  for (int64_t n = 1; n <= data; ++n) {
    if (data % n == 0) legal += (legal.empty() ? "" : ", ") + std::to_string(n);
  }
  std::string found = std::to_string(group);
  if (node) {
    found = "node: " + std::to_string(ranks_per_node) + " ranks on this one";
    if (inner > 1) found += ", tensor × context " + std::to_string(inner);
  }
  throw ConfigError({.what = "parallel.zero_group doesn't divide the data degree",
                     .expected = "a divisor of data " + std::to_string(data),
                     .found = found,
                     .where = "parallel.zero_group",
                     .hint = "parallel.zero_group: all, or one of " + legal});
}

}  // namespace

Mesh resolve_mesh(const ParallelConfig& config, int64_t world_size, int64_t rank, int64_t ranks_per_node) {
  const int64_t others = config.tensor * config.context * config.pipeline;
  const int64_t data = config.data.value_or(std::max<int64_t>(1, world_size / others));
  if (others * data != world_size) {
    const std::string product = "data " + (config.data ? std::to_string(*config.data) : "auto") + " × tensor " +
                                std::to_string(config.tensor) + " × context " + std::to_string(config.context) +
                                " × pipeline " + std::to_string(config.pipeline);
    throw ConfigError(
        {.what = "the degrees of parallelism don't multiply to the number of ranks",
         .expected = product + " = " + std::to_string(world_size) + " ranks",
         .found = std::to_string(others * data),
         .where = "parallel",
         .hint = world_size % others == 0
                     ? "parallel.data: " + std::to_string(world_size / others) + " (or auto)"
                     : std::to_string(others * std::max<int64_t>(1, (world_size + others / 2) / others)) + " ranks"});
  }
  Mesh::Degrees degrees;
  degrees.tensor = config.tensor;
  degrees.context = config.context;
  degrees.data_shard = resolve_zero_group(config, data, ranks_per_node > 0 ? ranks_per_node : world_size);
  degrees.data_replica = data / degrees.data_shard;
  degrees.pipeline = config.pipeline;
  return Mesh(degrees, rank);
}

int64_t resolve_microbatches(int64_t global, int64_t micro, int64_t data_degree) {
  const int64_t unit = micro * data_degree;
  if (global % unit == 0 && global > 0) return global / unit;
  const int64_t below = global / unit * unit;
  throw ConfigError({.what = "the global batch doesn't divide into microbatches of all data ranks",
                     .expected = "batch.global a multiple of data " + std::to_string(data_degree) + " × batch.micro " +
                                 std::to_string(micro) + " = " + std::to_string(unit),
                     .found = std::to_string(global),
                     .where = "batch.global",
                     .hint = "batch.global: " + (below > 0 ? std::to_string(below) + " or " : "") +
                             std::to_string(below + unit) + ", or another batch.micro"});
}

}  // namespace trireme
