#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/manifest.h"
#include "core/device/thread_pool.h"
#include "tests/unit/data_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::message_of;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

// One bucket of two parameters, with values that tell them apart.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : pool_(1), stream_(allocator_, pool_) {
    Parameter matrix;
    matrix.name = "m.weight";
    matrix.shape = {3, 5};
    matrix.init = {Initializer::Kind::normal, 0.5};
    Parameter norm;
    norm.name = "n.weight";
    norm.shape = {7};
    norm.role = Role::norm;
    norm.init = {Initializer::Kind::constant, 1.0};
    matrix_ = Weight(matrix);
    norm_ = Weight(norm);
    bucket_ = std::make_unique<Bucket>(stream_, "b", std::vector<Weight*>{&matrix_, &norm_}, Bucket::Options{});
    bucket_->initialize(stream_, 3);
    refs_ = {{&matrix_.parts[0], bucket_.get()}, {&norm_.parts[0], bucket_.get()}};
  }

  ModelState model() { return {stream_, {matrix_.parts[0], norm_.parts[0]}, refs_}; }
  std::string save(int64_t step) { return save_checkpoint(dir_.path(), {step, step * 10, "config: text"}, model()); }
  std::vector<float> values() {
    std::vector<float> all(22);
    bucket_->read(stream_, matrix_.parts[0], Bucket::Buffer::master, all.data());
    bucket_->read(stream_, norm_.parts[0], Bucket::Buffer::first_moment, all.data() + 15);
    return all;
  }

  TempDir dir_;
  ThreadPool pool_;
  CpuAllocator allocator_;
  CpuStream stream_;
  Weight matrix_, norm_;
  std::unique_ptr<Bucket> bucket_;
  std::vector<ParameterRef> refs_;
};

TEST_F(CheckpointTest, ComesBackAsItWas) {
  const std::vector<float> moments{1, 2, 3, 4, 5, 6, 7};
  bucket_->write(stream_, norm_.parts[0], Bucket::Buffer::first_moment, moments.data());
  const std::vector<float> before = values();
  const std::string path = save(12);
  EXPECT_EQ(latest_checkpoint(dir_.path()), path);
  bucket_->initialize(stream_, 99);
  EXPECT_NE(values(), before);
  const CheckpointState state = load_checkpoint(path, model());
  EXPECT_EQ(values(), before);
  EXPECT_EQ(state.step, 12);
  EXPECT_EQ(state.consumed_samples, 120);
  EXPECT_EQ(state.config_yaml, "config: text");
}

TEST_F(CheckpointTest, OldOnesArePruned) {
  for (const int64_t step : {10, 20, 30, 40, 50}) save(step);
  fs::create_directories(dir_ / "checkpoints/step-00000060.tmp");
  prune_checkpoints(dir_.path(), /*keep_last=*/2, /*keep_every=*/20);
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(dir_ / "checkpoints")) left.push_back(entry.path().filename());
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"step-00000020", "step-00000040", "step-00000050"}));
}

TEST_F(CheckpointTest, WithoutAValidManifestThereIsNone) {
  const std::string old_path = save(1);
  const std::string path = save(2);
  const std::string manifest = read_file(path + "/manifest.json");
  // Any changed character makes it invalid; the older one is found instead.
  for (const size_t at : {manifest.size() / 4, manifest.size() / 2, manifest.size() - 10}) {
    std::string changed = manifest;
    changed[at] = changed[at] == 'x' ? 'y' : 'x';
    write_file(path + "/manifest.json", changed);
    EXPECT_EQ(latest_checkpoint(dir_.path()), old_path) << at;
  }
  write_file(path + "/manifest.json", manifest);
  EXPECT_EQ(latest_checkpoint(dir_.path()), path);
  fs::remove(path + "/manifest.json");
  EXPECT_EQ(latest_checkpoint(dir_.path()), old_path);
  EXPECT_EQ(latest_checkpoint(dir_ / "nowhere"), std::nullopt);
}

TEST_F(CheckpointTest, NewerFormatAndDamageAreNamed) {
  const std::string path = save(1);
  std::string manifest = read_file(path + "/manifest.json");
  const std::string key = "\"format_version\": 1";
  ASSERT_NE(manifest.find(key), std::string::npos);
  std::string newer = manifest;
  newer.replace(newer.find(key), key.size(), "\"format_version\": 9");
  write_file(path + "/manifest.json", newer);
  EXPECT_NE(message_of<DataError>([&] { read_manifest(path); }).find("newer"), std::string::npos);
  write_file(path + "/manifest.json", manifest);
  for (const char* file : {"weights.safetensors", "first_moments.safetensors", "second_moments.safetensors"}) {
    const std::string bytes = read_file(path + "/" + file);
    std::string flipped = bytes;
    flipped.back() ^= 4;
    write_file(path + "/" + file, flipped);
    EXPECT_NE(message_of<DataError>([&] { load_checkpoint(path, model()); }).find(file), std::string::npos);
    write_file(path + "/" + file, bytes.substr(0, bytes.size() - 1));
    EXPECT_NE(message_of<DataError>([&] { load_checkpoint(path, model()); }).find(file), std::string::npos);
    write_file(path + "/" + file, bytes);
  }
  load_checkpoint(path, model());
}

}  // namespace
}  // namespace trireme
