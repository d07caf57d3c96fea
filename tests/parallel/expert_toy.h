// A made-up model with experts, for the tests of where parameters lie and what is summed over whom: its gradients are exact
// numbers that sum to the same total in every layout, so that norm, update and checkpoint have the bits of one rank.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/random/philox.h"
#include "optim/optimizer.h"
#include "parallel/comm/thread_world.h"
#include "parallel/groups.h"
#include "parallel/model_state.h"
#include "parallel/zero/data_parallel.h"

namespace trireme::testing {

struct ExpertToyOptions {
  Mesh::Degrees degrees;
  int stage = 0;  // parallel.zero; REQUIRES: 0 only with one replica
  DType compute = DType::f32;
  bool overlap = true;
};

inline constexpr int kToyLayers = 2;
inline constexpr int64_t kToyExperts = 12;
inline constexpr int64_t kToyWidth = 6;
inline constexpr int64_t kToyFfn = 20;

// What of the ranks of a stage a gradient is a sum over.
enum class Summed : uint8_t { data, stage, expert_data };

// One layer: a matrix cut over the tensor group, a norm that sees a part of the tokens, a bias of which all tensor ranks
// have the whole gradient, a router in fp32 with its buffer, and the experts of this rank.
class ExpertToyUnit final : public Unit {
 public:
  // Names of `mesh`'s rank; all experts where the mesh is of one rank.
  ExpertToyUnit(int layer, const Mesh& mesh);

  const std::string& name() const override { return name_; }
  std::vector<Weight*> weights() override;
  Weight& buffer() { return buffer_; }

  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor& x, Stash& stash) override;
  Tensor backward_input(Stream& stream, const Microbatch& microbatch, const Tensor& dy, Stash& stash) override;
  void backward_weight(Stream& stream, const Microbatch& microbatch, Stash& stash) override;

 private:
  struct Listed {
    Weight weight;
    Summed summed = Summed::data;
  };
  void add(std::vector<Parameter> parts, Summed summed);
  void write_gradient(Stream& stream, Listed& listed, Bucket::Buffer kind);

  std::string name_;
  Mesh mesh_;
  std::vector<Listed> weights_;
  Weight buffer_;
  int num_backward_ = 0;
};

// The total of a gradient's element in a microbatch, whatever the layout. Parameters that stay in fp32 have fractions that
// bf16 lacks.
double toy_total(const Parameter& parameter, int64_t element, int microbatch);

class ExpertToyRank {
 public:
  ExpertToyRank(Communicator& world, const ExpertToyOptions& options, uint64_t seed);

  // Forward and backward of `num` microbatches, and the reduction.
  void backward(int num);
  // The global gradient norm; and the update of the weights.
  double update(int64_t step);

  Stream& stream() { return stream_; }
  Stream& copy_stream() { return copy_stream_; }

 private:
  ThreadPool pool_;
  CpuAllocator allocator_;
  CpuStream stream_;
  CpuAllocator copy_allocator_;
  CpuStream copy_stream_;
  Communicator& world_;

 public:
  Mesh mesh;
  Groups groups;
  std::vector<Parameter> all;  // of the whole model
  std::vector<std::unique_ptr<ExpertToyUnit>> units;
  std::vector<Unit*> list;
  std::vector<std::unique_ptr<Bucket>> owned;
  std::vector<Bucket*> buckets;
  std::vector<ParameterRef> parameters;
  std::unique_ptr<DataParallel> data;
  std::unique_ptr<Optimizer> optimizer;
};

}  // namespace trireme::testing
