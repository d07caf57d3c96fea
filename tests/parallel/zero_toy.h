// Units that only count, for the tests of what happens around units: their gradients are whole numbers that depend on
// unit, rank and microbatch, so that every sum is exact, and their passes may take a given time without using a processor.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/ops/elementwise.h"
#include "parallel/comm/thread_world.h"
#include "parallel/groups.h"
#include "parallel/stage.h"
#include "parallel/zero/data_parallel.h"

namespace trireme::testing {

// What rank `rank` adds to every element of a weight's gradient in a microbatch; sums stay below 2^24.
inline float toy_gradient(int unit, int rank, int microbatch) {
  return static_cast<float>(1 + 3 * unit + 17 * rank + 101 * microbatch);
}

class ToyUnit final : public Unit {
 public:
  struct Options {
    int unit = 0;
    float value = 1;  // of every element of its weight
    int rank = 0;
    bool head = false;   // makes its gradients in forward
    double seconds = 0;  // of each half of backward and of forward
  };
  ToyUnit(Weight weight, const Options& options) : weight_(std::move(weight)), options_(options) {}

  const std::string& name() const override { return name_; }
  std::vector<Weight*> weights() override { return {&weight_}; }
  bool gradients_in_forward() const override { return options_.head; }
  Weight& weight() { return weight_; }

  Tensor forward(Stream& stream, const Microbatch& microbatch, const Tensor&, Stash& stash) override {
    read_value();
    if (!microbatch.with_gradients) return {};
    stash.put(0, Tensor::empty(stream, {1}, DType::f32));
    if (options_.head) write_gradient(stream);
    return {};
  }
  Tensor backward_input(Stream&, const Microbatch&, const Tensor&, Stash& stash) override {
    EXPECT_TRUE(stash.has(0));
    if (!options_.head) read_value();
    return {};
  }
  void backward_weight(Stream& stream, const Microbatch&, Stash&) override {
    if (!options_.head) write_gradient(stream);
  }

 private:
  void rest() const {
    if (options_.seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(options_.seconds));
  }
  void read_value() const {
    TRIREME_CHECK(weight_.value.defined(), "values that aren't there");
    const float* x = weight_.value.data<float>();
    for (int64_t i = 0; i < weight_.value.numel(); ++i) EXPECT_EQ(x[i], options_.value);
    rest();
  }
  void write_gradient(Stream& stream) {
    Tensor added = Tensor::empty(stream, weight_.gradient.shape(), DType::f32);
    ops::fill(stream, added, toy_gradient(options_.unit, options_.rank, num_written_++));
    ops::accumulate(stream, added, weight_.gradient, weight_.accumulate_gradient());
    rest();
  }

  const std::string name_ = "toy";
  Weight weight_;
  Options options_;
  int num_written_ = 0;
};

// A rank with `num_units` units of `numel` elements each, a bucket for each.
class ToyRank {
 public:
  struct Options {
    Mesh::Degrees degrees;
    int stage = 0;
    int num_units = 4;
    int64_t numel = 100;
    bool last_is_head = true;
    double seconds = 0;
    DataParallel::Options data_parallel;
    AxisSet more_partial;       // beside the data axes
    bool tied_on_both = false;  // unit 0 lies on the first and the last pipeline stage
    bool second_use = false;    // the last unit uses the values of unit 0
  };

  ToyRank(Communicator& world, const Options& options)
      : pool_(1),
        stream_(allocator_, pool_),
        mesh(options.degrees, world.rank()),
        groups(mesh, /*ring=*/false,
               [&](const std::vector<int>& ranks, const std::string& name) { return world.split(ranks, name); }) {
    for (int u = 0; u < options.num_units; ++u) {
      Parameter p;
      p.name = "unit " + std::to_string(u);
      p.shape = {options.numel};
      p.init = {Initializer::Kind::constant, static_cast<double>(1 + u)};
      p.gradient_placement.partial(Axis::data_shard).partial(Axis::data_replica);
      for (const Axis axis : {Axis::tensor}) {
        if (options.more_partial.contains(axis)) p.gradient_placement.partial(axis);
      }
      const bool last = u + 1 == options.num_units;
      const bool head = options.last_is_head && last;
      const bool second = options.second_use && last;
      units.push_back(
          std::make_unique<ToyUnit>(Weight(p), ToyUnit::Options{.unit = u,
                                                                .value = static_cast<float>(second ? 1 : 1 + u),
                                                                .rank = static_cast<int>(mesh.rank()),
                                                                .head = head,
                                                                .seconds = options.seconds}));
      list.push_back(units.back().get());
      Bucket::Options bucket;
      bucket.stage = options.stage;
      bucket.num_shards = mesh.degree(Axis::data_shard);
      bucket.shard = mesh.coordinate(Axis::data_shard);
      bucket.on_both_ends = options.tied_on_both && u == 0;
      bucket.values_of = second ? owned.front().get() : nullptr;
      owned.push_back(std::make_unique<Bucket>(stream_, p.name, list.back()->weights(), bucket));
      owned.back()->initialize(stream_, 1);
      buckets.push_back(owned.back().get());
    }
    data = std::make_unique<DataParallel>(list, buckets, groups, options.data_parallel);
    runner = std::make_unique<StageRunner>(list, std::vector<RecomputeMode>(list.size(), RecomputeMode::none));
  }

  Stream& stream() { return stream_; }
  Allocator& allocator() { return allocator_; }

 private:
  ThreadPool pool_;
  CpuAllocator allocator_;
  CpuStream stream_;

 public:
  Mesh mesh;
  Groups groups;
  std::vector<std::unique_ptr<ToyUnit>> units;
  std::vector<Unit*> list;
  std::vector<std::unique_ptr<Bucket>> owned;
  std::vector<Bucket*> buckets;
  std::unique_ptr<DataParallel> data;
  std::unique_ptr<StageRunner> runner;
};

}  // namespace trireme::testing
