// Which experts every token of some steps chose, put together by all ranks: so that a layout can be told from one rank by its
// decisions before its numbers.
//
// Rounding may flip the choice between two experts of nearly the same score. The first layer where choices differ shows whether
// that is what happened; everything behind it follows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "models/moe/routing_watch.h"
#include "parallel/mesh.h"

namespace trireme {

inline constexpr double kNearTie = 1e-5;  // scores that rounding may swap

class RoutingTable {
 public:
  RoutingTable() = default;  // of a dense model
  RoutingTable(const Config& config, int64_t steps, int64_t layers);

  struct Difference {
    bool found = false;
    int64_t step = 0;       // from 0, the first in which some token chose other experts
    bool near_tie = false;  // each token that did so in the first such layer has two scores within kNearTie
    std::string text = {};
  };
  // `reference` is of the same batches.
  Difference compare(const RoutingTable& reference) const;

  // Ranks write rows of their own, side by side.
  void record(int64_t step, int64_t layer, int64_t token, std::vector<int32_t> chosen, double gap);

 private:
  struct Choice {
    std::vector<int32_t> experts = {};  // ascending
    double gap = 0;                     // the smallest difference of scores that decided
  };
  int64_t layers_ = 0;
  int64_t tokens_ = 0;  // of a step
  std::vector<Choice> choices_;
};

// Writes what one rank sees of one step.
class RoutingRecorder final : public RoutingWatch {
 public:
  RoutingRecorder(const Config& config, const Mesh& mesh, RoutingTable& table)
      : experts_(config.model.experts),
        couples_(config.moe.capacity_factor || config.moe.router == MoeRouter::base ||
                 config.moe.router == MoeRouter::expert_choice),
        mesh_(mesh),
        table_(table) {}
  void set_step(int64_t step) { step_ = step; }
  void saw(Stream& stream, int64_t layer, const Microbatch& microbatch, int64_t first_row, const Tensor& scores,
           const Tensor& bias, const Tensor& experts) override;

 private:
  // Between a chosen and another expert of the token, or between groups.
  double gap(const float* scores, const std::vector<int32_t>& chosen) const;
  // Between tokens that compete for an expert, where decisions couple them; `row` among `rows`.
  double gap_to_others(const std::vector<float>& scores, const std::vector<int32_t>& chosen, int64_t row,
                       int64_t rows) const;

  ExpertsConfig experts_;
  bool couples_;
  Mesh mesh_;
  RoutingTable& table_;
  int64_t step_ = 0;
};

}  // namespace trireme
