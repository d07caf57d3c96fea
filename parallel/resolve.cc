#include "parallel/resolve.h"

#include <algorithm>

#include "core/error.h"

namespace trireme {

Mesh resolve_mesh(const ParallelConfig& config, int64_t world_size, int64_t rank) {
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
  degrees.data_shard = data;
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
