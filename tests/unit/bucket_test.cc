// The flat memory of weights: where parameters lie, and what goes in and comes out in each dtype.
#include "parallel/zero/bucket.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "core/device/thread_pool.h"
#include "core/ops/elementwise.h"
#include "parallel/zero/weight_groups.h"

namespace trireme {
namespace {

class BucketTest : public ::testing::Test {
 protected:
  BucketTest() : pool_(1), stream_(allocator_, pool_) {
    Parameter q;
    q.name = "q.weight";
    q.shape = {3, 5};
    q.init = {Initializer::Kind::normal, 0.5};
    Parameter k = q;
    k.name = "k.weight";
    k.shape = {1, 5};
    joined_.parts = {q, k};
    Parameter norm;
    norm.name = "n.weight";
    norm.shape = {7};
    norm.role = Role::norm;
    norm.init = {Initializer::Kind::constant, 1.0};
    norm_ = Weight(norm);
  }

  Bucket make(const Bucket::Options& options) { return Bucket(stream_, "b", {&joined_, &norm_}, options); }

  std::vector<float> read(const Bucket& bucket, const Parameter& parameter, Bucket::Buffer buffer) {
    std::vector<float> values(static_cast<size_t>(parameter.shape.numel()));
    bucket.read(stream_, parameter, buffer, values.data());
    return values;
  }

  ThreadPool pool_;
  CpuAllocator allocator_;
  CpuStream stream_;
  Weight joined_, norm_;
};

TEST_F(BucketTest, SegmentsSayWhereParametersLie) {
  const Bucket bucket = make({.num_shards = 2});
  EXPECT_EQ(bucket.numel(), 128);
  ASSERT_EQ(bucket.segments().size(), 3u);
  const std::vector<std::pair<int64_t, int64_t>> places = {{0, 15}, {15, 20}, {64, 71}};
  const std::vector<std::string> names = {"q.weight", "k.weight", "n.weight"};
  for (size_t i = 0; i < places.size(); ++i) {
    const BucketSegment& segment = bucket.segments()[i];
    EXPECT_EQ(std::pair(segment.begin, segment.end), places[i]);
    EXPECT_EQ(segment.parameter->name, names[i]);
  }
}

TEST_F(BucketTest, BuffersHaveTheDtypesOfTheOptions) {
  Bucket plain = make({});
  EXPECT_EQ(plain.master().raw(), plain.value().raw()) << "fp32 weights are their own master";
  Bucket narrow = make({.compute = DType::bf16, .gradients = DType::bf16, .states = DType::bf16, .with_master = false});
  EXPECT_FALSE(narrow.master().defined());
  for (const Tensor& t : {narrow.value(), narrow.gradient(), narrow.first_moment(), narrow.second_moment()}) {
    EXPECT_EQ(t.dtype(), DType::bf16);
  }
  EXPECT_EQ(joined_.gradient.dtype(), DType::bf16);
  EXPECT_EQ(joined_.parts[1].gradient.dtype(), DType::bf16);
  Bucket bf16_with_master = make({.compute = DType::bf16});
  EXPECT_EQ(bf16_with_master.master().dtype(), DType::f32);
  EXPECT_THROW(make({.with_master = false}), BugError);
}

TEST_F(BucketTest, GivesBackWhatItHolds) {
  using Buffer = Bucket::Buffer;
  const std::vector<float> exact = {1.5f, -2.0f, 3.0f, 0.25f, -0.125f};      // bf16 holds these
  const std::vector<float> fine = {1.001f, -2.001f, 3.001f, 0.251f, 1e-9f};  // and rounds these
  std::vector<float> rounded;
  for (const float x : fine) rounded.push_back(static_cast<float>(bf16(x)));
  const Parameter& k = joined_.parts[1];
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Bucket bucket =
        make({.compute = DType::bf16, .gradients = dtype, .states = dtype, .with_master = dtype == DType::f32});
    for (const Buffer buffer : {Buffer::master, Buffer::gradient, Buffer::first_moment, Buffer::second_moment}) {
      bucket.write(stream_, k, buffer, exact.data());
      EXPECT_EQ(read(bucket, k, buffer), exact);
      bucket.write(stream_, k, buffer, fine.data());
      EXPECT_EQ(read(bucket, k, buffer), dtype == DType::f32 ? fine : rounded);
      EXPECT_EQ(read(bucket, joined_.parts[0], buffer), std::vector<float>(15)) << "its neighbour";
    }
    // Weights that are written reach the values of the computation, whatever lies between.
    for (size_t i = 0; i < fine.size(); ++i) EXPECT_EQ(static_cast<float>(k.value.data<bf16>()[i]), rounded[i]);
  }
}

TEST_F(BucketTest, InitialValuesAreTheSameInEveryPrecision) {
  const Parameter& q = joined_.parts[0];
  Bucket wide = make({});
  wide.initialize(stream_, 5);
  std::vector<float> want = read(wide, q, Bucket::Buffer::master);
  Bucket narrow = make({.compute = DType::bf16, .with_master = false});
  narrow.initialize(stream_, 5);
  for (float& x : want) x = static_cast<float>(bf16(x));
  EXPECT_EQ(read(narrow, q, Bucket::Buffer::master), want);
}

// ---- Parts and shards ----

// What of a model of three parameters each rank of a group holds: [split over tensor, shards] many ranks.
class BucketShards : public ::testing::Test {
 protected:
  BucketShards() : pool_(1), stream_(allocator_, pool_) {}

  struct Rank {
    Weight joined, row, norm;
    std::unique_ptr<Bucket> bucket;
    std::vector<const Parameter*> parameters() const {
      return {&joined.parts[0], &joined.parts[1], &row.parts[0], &norm.parts[0]};
    }
  };

  std::unique_ptr<Rank> make(int64_t tensor, int64_t tensor_rank, Bucket::Options options) {
    auto rank = std::make_unique<Rank>();
    const Mesh mesh({.tensor = std::max<int64_t>(1, tensor)}, tensor_rank);
    const auto parameter = [&](const char* name, Shape shape, int split, int64_t granule, Initializer init) {
      Parameter p;
      p.name = name;
      p.shape = shape;
      p.init = init;
      p.granule = granule;
      if (split >= 0) p.placement.split(Axis::tensor, split);
      if (tensor > 0) p.place(mesh);
      return p;
    };
    const Initializer normal{Initializer::Kind::normal, 0.5};
    rank->joined.parts = {parameter("gate", {11, 5}, 0, 8, normal), parameter("up", {11, 5}, 0, 8, normal)};
    rank->row = Weight(parameter("down", {5, 11}, 1, 8, normal));
    rank->norm = Weight(parameter("norm", {7}, -1, 1, {Initializer::Kind::constant, 1.0}));
    rank->bucket =
        std::make_unique<Bucket>(stream_, "b", std::vector<Weight*>{&rank->joined, &rank->row, &rank->norm}, options);
    return rank;
  }

  static constexpr float kAbsent = -77;

  // Adds what a rank holds to `all`; nobody else may have had it, unless `again`.
  void collect(const Rank& rank, size_t parameter, Bucket::Buffer kind, std::vector<float>& all, bool again = false) {
    const Parameter& p = *rank.parameters()[parameter];
    std::vector<float> host(static_cast<size_t>(p.shape.numel()), kAbsent);
    rank.bucket->read(stream_, p, kind, host.data());
    all.resize(host.size(), kAbsent);
    for (size_t i = 0; i < host.size(); ++i) {
      if (host[i] == kAbsent) continue;
      EXPECT_TRUE(again || all[i] == kAbsent) << p.name << " " << i << " lies on two ranks";
      all[i] = host[i];
    }
  }

  ThreadPool pool_;
  CpuAllocator allocator_;
  CpuStream stream_;
};

TEST_F(BucketShards, InitialValuesAreThoseOfTheWholeInEveryLayout) {
  const auto whole = make(0, 0, {});
  whole->bucket->initialize(stream_, 5);
  for (const int64_t tensor : {1, 2, 3}) {
    for (const int stage : {0, 1, 2, 3}) {
      for (const int64_t shards : {1, 2, 3}) {
        SCOPED_TRACE("tensor " + std::to_string(tensor) + ", stage " + std::to_string(stage) + ", shards " +
                     std::to_string(shards));
        std::vector<std::vector<float>> got(4);
        for (int64_t t = 0; t < tensor; ++t) {
          for (int64_t d = 0; d < shards; ++d) {
            auto rank = make(tensor, t, {.stage = stage, .num_shards = shards, .shard = d});
            rank->bucket->initialize(stream_, 5);
            EXPECT_EQ(rank->bucket->numel() % (64 * shards), 0);
            EXPECT_EQ(rank->bucket->shard_begin() % 64, 0);
            const bool everywhere = stage == 0 && d > 0;
            for (size_t p = 0; p < 4; ++p) {
              const bool replicated = p == 3 && t > 0;
              collect(*rank, p, Bucket::Buffer::master, got[p], everywhere || replicated);
            }
          }
        }
        for (size_t p = 0; p < 4; ++p) {
          std::vector<float> want;
          collect(*whole, p, Bucket::Buffer::master, want);
          EXPECT_EQ(got[p], want) << whole->parameters()[p]->name;
        }
      }
    }
  }
}

TEST_F(BucketShards, WhatIsWrittenIsReadAndPaddingStaysZero) {
  using Buffer = Bucket::Buffer;
  for (const int stage : {0, 1, 2, 3}) {
    for (const DType compute : {DType::f32, DType::bf16}) {
      std::vector<std::vector<float>> got(4 * 4);
      for (int64_t t = 0; t < 2; ++t) {
        for (int64_t d = 0; d < 3; ++d) {
          auto rank = make(2, t, {.compute = compute, .stage = stage, .num_shards = 3, .shard = d});
          Bucket& bucket = *rank->bucket;
          const auto parameters = rank->parameters();
          for (size_t p = 0; p < 4; ++p) {
            for (const Buffer kind : {Buffer::master, Buffer::gradient, Buffer::first_moment, Buffer::second_moment}) {
              std::vector<float> values(static_cast<size_t>(parameters[p]->shape.numel()));
              for (size_t i = 0; i < values.size(); ++i) {
                values[i] = static_cast<float>(i + 1) + 64 * static_cast<float>(kind);
              }
              bucket.write(stream_, *parameters[p], kind, values.data());
              collect(*rank, p, kind, got[4 * p + static_cast<size_t>(kind)], /*again=*/true);
            }
          }
          // Every element that isn't one of a parameter is zero, in every buffer.
          int64_t exist = 0;
          for (const BucketSegment& segment : bucket.segments()) {
            const Parameter& p = *segment.parameter;
            const int64_t begin = std::clamp(bucket.shard_begin(), segment.begin, segment.end) - segment.begin;
            const int64_t end = std::clamp(bucket.shard_end(), segment.begin, segment.end) - segment.begin;
            p.part.for_each_run(p.shape, begin, end, [&](int64_t, int64_t, int64_t n) { exist += n; });
          }
          for (const Tensor& flat : {bucket.first_moment(), bucket.gradient_shard(), bucket.master()}) {
            int64_t nonzero = 0;
            for (int64_t i = 0; i < flat.numel(); ++i) nonzero += flat.data<float>()[i] != 0 ? 1 : 0;
            EXPECT_EQ(nonzero, exist);
          }
          if (stage == 3) continue;
          // The values are there outside of the shard, too, in the dtype of the computation.
          const Parameter& down = *parameters[2];
          down.part.for_each_run(down.shape, 0, down.value.numel(), [&](int64_t local, int64_t global, int64_t n) {
            for (int64_t i = 0; i < n; ++i) {
              const float value = compute == DType::f32 ? down.value.data<float>()[local + i]
                                                        : static_cast<float>(down.value.data<bf16>()[local + i]);
              EXPECT_EQ(value, static_cast<float>(global + i + 1));
            }
          });
        }
      }
      for (size_t i = 0; i < got.size(); ++i) {
        for (size_t k = 0; k < got[i].size(); ++k) {
          EXPECT_EQ(got[i][k], static_cast<float>(k + 1) + 64 * static_cast<float>(i % 4));
        }
      }
    }
  }
}

TEST_F(BucketShards, FullBuffersComeAndGo) {
  const auto live = [&](MemoryTag tag) { return allocator_.stats().live_bytes[static_cast<size_t>(tag)]; };
  auto rank = make(1, 0, {.stage = 3, .num_shards = 2});
  Bucket& bucket = *rank->bucket;
  const int64_t bytes = bucket.numel() * 4;
  EXPECT_EQ(live(MemoryTag::parameters), bytes / 2);
  EXPECT_EQ(live(MemoryTag::gradients), bytes / 2);
  EXPECT_EQ(live(MemoryTag::optimizer), bytes) << "fp32 weights are their own master";
  EXPECT_FALSE(rank->row.value.defined());
  EXPECT_FALSE(rank->row.gradient.defined());
  {  // what the allocator gives out next
    Tensor used = Tensor::empty(stream_, {bucket.numel()}, DType::f32);
    ops::fill(stream_, used, 3);
  }
  bucket.open_gradient(stream_);
  bucket.open_value(stream_);
  EXPECT_EQ(live(MemoryTag::parameters), bytes + bytes / 2);
  EXPECT_EQ(live(MemoryTag::gradients), bytes + bytes / 2);
  EXPECT_EQ(rank->joined.value.shape(), (Shape{32, 5}));  // two parts of 11 rows, each padded to 16
  EXPECT_EQ(rank->joined.parts[1].gradient.raw(),
            static_cast<void*>(bucket.gradient().data<float>() + rank->joined.parts[0].local_shape().numel()));
  EXPECT_TRUE(rank->joined.accumulate_gradient() == false && rank->joined.accumulate_gradient());
  bucket.finish_gradients(stream_);
  for (const float* x = rank->row.gradient.data<float>(); x < rank->row.gradient.data<float>() + 5 * 16; ++x) {
    EXPECT_EQ(*x, 0) << "a gradient that nobody wrote";
  }
  bucket.drop_value();
  EXPECT_EQ(bucket.take_gradient().numel(), bucket.numel());
  EXPECT_FALSE(rank->norm.parts[0].gradient.defined());
  EXPECT_EQ(live(MemoryTag::parameters), bytes / 2);
  EXPECT_EQ(live(MemoryTag::gradients), bytes / 2);
}

TEST_F(BucketShards, ASecondUseHasTheValuesAndGradientsOfItsOwn) {
  for (const int stage : {0, 3}) {
    auto first = make(1, 0, {.stage = stage, .num_shards = 2});
    auto second = make(1, 0, {.stage = stage, .num_shards = 2, .values_of = first->bucket.get()});
    EXPECT_FALSE(second->bucket->value_shard().defined());
    EXPECT_FALSE(second->bucket->master().defined());
    if (stage == 3) first->bucket->open_value(stream_);
    EXPECT_EQ(second->row.value.raw(), first->row.value.raw());
    EXPECT_NE(second->bucket->gradient_shard().raw(), first->bucket->gradient_shard().raw());
    if (stage == 3) first->bucket->drop_value();
    EXPECT_EQ(second->row.value.defined(), stage == 0);
  }
}

// ---- Groups of weights ----

TEST(WeightGroups, WeightsOfOneReductionShareABucket) {
  const auto weight = [](bool split, bool partial) {
    Parameter p;
    p.shape = {8, 8};
    p.gradient_placement.partial(Axis::data_shard).partial(Axis::data_replica);
    if (split) p.placement.split(Axis::tensor, 0);
    if (partial) p.gradient_placement.partial(Axis::tensor);
    return Weight(p);
  };
  Weight norm1 = weight(false, true);
  Weight qkv = weight(true, false);
  Weight bias = weight(false, false);
  Weight norm2 = weight(false, true);
  Weight down = weight(true, false);
  const std::vector<Weight*> all = {&norm1, &qkv, &bias, &norm2, &down};
  using Groups = std::vector<std::vector<Weight*>>;
  EXPECT_EQ(group_weights(all, Mesh({.tensor = 2, .data_shard = 2}, 3)),
            (Groups{{&norm1, &norm2}, {&qkv, &down}, {&bias}}));
  EXPECT_EQ(group_weights(all, Mesh({.data_shard = 4}, 3)), Groups{all}) << "axes of degree 1 don't matter";
  Weight mixed = weight(false, true);
  mixed.parts.push_back(qkv.parts[0]);
  EXPECT_THROW(group_weights({&mixed}, Mesh({.tensor = 2}, 0)), BugError);
}

TEST(WeightGroups, ExpertsFp32WeightsAndBuffersLieApart) {
  const auto weight = [] {
    Parameter p;
    p.shape = {16, 8};
    p.gradient_placement.partial(Axis::data_shard).partial(Axis::data_replica);
    return p;
  };
  Weight dense(weight());
  Weight router(weight());
  router.parts[0].full_precision = true;
  Weight up(expert_parameter(weight(), 0, 8));
  Weight down(expert_parameter(weight(), 1, 8));
  Weight buffer(weight());
  buffer.parts[0].role = Role::buffer;
  const std::vector<Weight*> all = {&dense, &router, &up, &buffer, &down};
  using Groups = std::vector<std::vector<Weight*>>;
  // One rank, and 2 × 4 ranks: expert_shard 2 of the coordinates expert 2 × expert_tensor 2.
  const Mesh mesh({.tensor = 2, .data_shard = 4, .expert = 2, .expert_tensor = 2}, 6);
  for (const Mesh& m : {Mesh({}, 0), mesh}) {
    EXPECT_EQ(group_weights(all, m), (Groups{{&dense}, {&router}, {&up, &down}, {&buffer}}));
  }
  const Bucket::Options run{.compute = DType::bf16, .gradients = DType::bf16, .stage = 2, .with_master = false};
  const Bucket::Options of_dense = bucket_options(run, dense.parts[0], mesh);
  EXPECT_EQ(of_dense.num_shards, 4);
  EXPECT_EQ(of_dense.shard, 3);
  EXPECT_EQ(of_dense.compute, DType::bf16);
  const Bucket::Options of_experts = bucket_options(run, up.parts[0], mesh);
  EXPECT_EQ(of_experts.num_shards, 2);
  EXPECT_EQ(of_experts.shard, 1);
  EXPECT_FALSE(of_experts.with_master);
  const Bucket::Options of_router = bucket_options(run, router.parts[0], mesh);
  EXPECT_EQ(of_router.num_shards, 4);
  EXPECT_EQ(of_router.compute, DType::f32);
  EXPECT_EQ(of_router.gradients, DType::f32);
  EXPECT_TRUE(of_router.with_master);
  const Bucket::Options of_buffer = bucket_options(run, buffer.parts[0], mesh);
  EXPECT_EQ(of_buffer.num_shards, 1);
  EXPECT_EQ(of_buffer.stage, 0);
  EXPECT_EQ(of_buffer.compute, DType::f32);
  EXPECT_FALSE(of_buffer.with_optimizer_states);
}

}  // namespace
}  // namespace trireme
