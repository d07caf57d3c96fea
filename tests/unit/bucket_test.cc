// The flat memory of weights: where parameters lie, and what goes in and comes out in each dtype.
#include "parallel/zero/bucket.h"

#include <gtest/gtest.h>

#include "core/device/thread_pool.h"

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

}  // namespace
}  // namespace trireme
