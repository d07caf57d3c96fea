// Two checkpoints compared.
#include "checkpoint/checkpoint_diff.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include "checkpoint/hashed_file.h"
#include "core/tensor/dtype.h"
#include "tests/unit/data_testing.h"
#include "tests/unit/hugging_face_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::TempDir;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Values {
  std::string name;
  Shape shape;
  std::vector<float> values;
  FileDType dtype = FileDType::f32;
};

// A checkpoint of one file.
CheckpointReader write(const std::string& dir, const std::vector<Values>& tensors, int64_t step = 3) {
  fs::create_directories(dir);
  Manifest manifest;
  manifest.step = step;
  HashedFile file(local_files(), dir + "/part");
  int64_t offset = 0;
  for (const Values& tensor : tensors) {
    std::vector<uint16_t> narrow;
    for (const float v : tensor.values) narrow.push_back(bf16(v).bits);
    const auto bytes = tensor.dtype == FileDType::bf16 ? std::as_bytes(std::span<const uint16_t>(narrow))
                                                       : std::as_bytes(std::span<const float>(tensor.values));
    file.append(bytes);
    manifest.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, {{0, offset, Box::whole(tensor.shape)}}});
    offset += std::ssize(bytes);
  }
  manifest.files.push_back(file.finish());
  write_manifest(local_files(), dir, manifest);
  return CheckpointReader(dir);
}

TEST(CheckpointDiff, BoxesAndLayoutsDontCount) {
  const TempDir dir;
  std::vector<float> values(35);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 7.5f;
  values[3] = kNan;
  const CheckpointReader a = write(dir / "a", {{"x", {5, 7}, values}, {"y", {35}, values, FileDType::bf16}});
  testing::scatter_checkpoint(a, dir / "b", 11);
  const CheckpointDifference difference = compare_checkpoints(a, CheckpointReader(dir / "b"));
  EXPECT_TRUE(difference.equal());
  EXPECT_TRUE(difference.within(0));
  EXPECT_EQ(difference.num_compared, 2);
}

TEST(CheckpointDiff, FindsTheLargestOfEachTensorFarthestFirst) {
  const TempDir dir;
  const CheckpointReader a =
      write(dir / "a", {{"near", {4}, {1, 2, 3, 4.5f}}, {"same", {1}, {9}}, {"far", {2, 2}, {1, 20, 2, 3}}});
  const CheckpointReader b =
      write(dir / "b", {{"near", {4}, {1, 2.25f, 3, 4}}, {"same", {1}, {9}}, {"far", {2, 2}, {1, 2, 2, 4}}});
  const CheckpointDifference found = compare_checkpoints(a, b);
  ASSERT_EQ(found.tensors.size(), 2u);
  EXPECT_EQ(
      found.tensors[0],
      (TensorDifference{.name = "far", .num_different = 2, .largest = 18, .relative = 4.5, .at = 1, .a = 20, .b = 2}));
  EXPECT_EQ(found.tensors[1],
            (TensorDifference{
                .name = "near", .num_different = 2, .largest = 0.5, .relative = 0.125, .at = 3, .a = 4.5, .b = 4}));
  EXPECT_FALSE(found.within(4));
  EXPECT_TRUE(found.within(4.5));
  EXPECT_FALSE(found.equal());
}

TEST(CheckpointDiff, NumbersThatAreNone) {
  const TempDir dir;
  const CheckpointReader a =
      write(dir / "a", {{"inf", {2}, {kInfinity, 1}}, {"nan", {3}, {kNan, 1, kNan}}, {"zero", {1}, {0.0f}}});
  const CheckpointReader b =
      write(dir / "b", {{"inf", {2}, {-kInfinity, 1}}, {"nan", {3}, {kNan, kNan, 2}}, {"zero", {1}, {-0.0f}}});
  const CheckpointDifference found = compare_checkpoints(a, b);
  ASSERT_EQ(found.tensors.size(), 3u);
  for (const TensorDifference& difference : found.tensors) {
    if (difference.name == "zero") {
      EXPECT_EQ(difference.num_different, 1);  // other bits
      EXPECT_EQ(difference.largest, 0);
    } else {
      EXPECT_EQ(difference.largest, static_cast<double>(kInfinity)) << difference.name;
      EXPECT_EQ(difference.num_different, difference.name == "nan" ? 2 : 1);
    }
  }
  EXPECT_FALSE(found.within(1e30));
}

TEST(CheckpointDiff, WhatOnlyOneHasAndOtherShapesAndDtypes) {
  const TempDir dir;
  const CheckpointReader a =
      write(dir / "a", {{"gone", {1}, {1}}, {"shape", {2, 3}, std::vector<float>(6)}, {"type", {2}, {1, 1.5f}}});
  const CheckpointReader b =
      write(dir / "b",
            {{"new", {1}, {1}}, {"shape", {3, 2}, std::vector<float>(6)}, {"type", {2}, {1, 1.5f}, FileDType::bf16}});
  const CheckpointDifference found = compare_checkpoints(a, b);
  ASSERT_EQ(found.tensors.size(), 4u);
  std::map<std::string, std::string> notes;
  for (const TensorDifference& difference : found.tensors) notes[difference.name] = difference.note;
  EXPECT_EQ(
      notes,
      (std::map<std::string, std::string>{
          {"gone", "only in A"}, {"new", "only in B"}, {"shape", "[2, 3] and [3, 2]"}, {"type", "F32 and BF16"}}));
  EXPECT_EQ(found.tensors.back().name, "type");  // equal values
  EXPECT_EQ(found.tensors.back().num_different, 0);
  EXPECT_FALSE(found.within(1e30));
  EXPECT_FALSE(compare_checkpoints(b, a).within(1e30));
}

TEST(CheckpointDiff, WhereTheRunStandsCounts) {
  const TempDir dir;
  const CheckpointReader a = write(dir / "a", {{"x", {1}, {1}}}, 3);
  const CheckpointReader b = write(dir / "b", {{"x", {1}, {1}}}, 4);
  const CheckpointDifference found = compare_checkpoints(a, b);
  EXPECT_EQ(found.state, std::vector<std::string>{"step: 3 and 4"});
  EXPECT_FALSE(found.equal());
  EXPECT_FALSE(found.within(1));
}

}  // namespace
}  // namespace trireme
