// Checkpoints of one rank: they come back, old ones go, damage is named. Many ranks: tests/parallel.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <new>

#include "checkpoint/chunk_hash.h"
#include "checkpoint/directory.h"
#include "checkpoint/load.h"
#include "checkpoint/saver.h"
#include "core/device/thread_pool.h"
#include "core/formats/safetensors.h"
#include "tests/faulty_files.h"
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
  CheckpointTest() : pool_(1), stream_(allocator_, pool_), copies_(allocator_, pool_) {
    Parameter matrix;
    matrix.name = "m.weight";
    matrix.shape = {3, 5};
    matrix.init = {Initializer::Kind::normal, 0.5};
    matrix.part = LocalPart::whole(matrix.shape);
    Parameter norm;
    norm.name = "n.weight";
    norm.shape = {7};
    norm.role = Role::norm;
    norm.init = {Initializer::Kind::constant, 1.0};
    norm.part = LocalPart::whole(norm.shape);
    matrix_ = Weight(matrix);
    norm_ = Weight(norm);
    bucket_ = std::make_unique<Bucket>(stream_, "b", std::vector<Weight*>{&matrix_, &norm_}, Bucket::Options{});
    bucket_->initialize(stream_, 3);
    parameters_ = {matrix, norm};
    world_ = make_self_communicator("world", recorder_);
  }

  std::string save(int64_t step) {
    CheckpointSaver saver({bucket_.get()}, Mesh({}, 0), *world_, stream_, copies_, {.run_dir = dir_.path()});
    saver.begin({.step = step, .consumed_samples = step * 10, .seed = 5, .config_yaml = "config: text"}, stream_);
    EXPECT_EQ(saver.settle(), "");
    return saver.path_of(step);
  }
  void load(const std::string& path, StateParts parts = StateParts::everything) {
    load_checkpoint(CheckpointReader(path), stream_, parameters_, {bucket_.get()}, parts);
  }
  std::vector<float> values() {
    std::vector<float> all(22);
    bucket_->read(stream_, matrix_.parts[0], Bucket::Buffer::master, all.data());
    bucket_->read(stream_, norm_.parts[0], Bucket::Buffer::first_moment, all.data() + 15);
    return all;
  }
  std::vector<std::string> names() {
    std::vector<std::string> left;
    std::error_code none;  // there is no directory before something is written
    for (const auto& entry : fs::directory_iterator(dir_ / "checkpoints", none))
      left.push_back(entry.path().filename());
    std::sort(left.begin(), left.end());
    return left;
  }

  TempDir dir_;
  ThreadPool pool_;
  CpuAllocator allocator_;
  CpuStream stream_, copies_;
  FlightRecorder recorder_{0};
  std::unique_ptr<Communicator> world_;
  Weight matrix_, norm_;
  std::unique_ptr<Bucket> bucket_;
  std::vector<Parameter> parameters_;
};

TEST_F(CheckpointTest, ComesBackAsItWas) {
  const std::vector<float> moments{1, 2, 3, 4, 5, 6, 7};
  bucket_->write(stream_, norm_.parts[0], Bucket::Buffer::first_moment, moments.data());
  const std::vector<float> before = values();
  const std::string path = save(12);
  EXPECT_EQ(latest_checkpoint(dir_.path()), path);
  EXPECT_TRUE(is_checkpoint(path));
  bucket_->initialize(stream_, 99);
  EXPECT_NE(values(), before);
  load(path);
  EXPECT_EQ(values(), before);
  const Manifest manifest = read_manifest(path);
  EXPECT_EQ(manifest.step, 12);
  EXPECT_EQ(manifest.consumed_samples, 120);
  EXPECT_EQ(manifest.seed, 5);
  EXPECT_EQ(manifest.config_yaml, "config: text");
  EXPECT_EQ(CheckpointReader::verify(path), std::vector<std::string>());
  // Weights alone.
  const std::vector<float> zeros(7);
  bucket_->write(stream_, norm_.parts[0], Bucket::Buffer::first_moment, zeros.data());
  load(path, StateParts::weights);
  const std::vector<float> after = values();
  EXPECT_EQ(std::vector<float>(after.begin() + 15, after.end()), zeros);
}

// The files are what others can read: a box that is the whole has the tensor's own name.
TEST_F(CheckpointTest, FilesAreSafetensors) {
  const SafetensorsReader reader(save(1) + "/rank-00000.safetensors");
  EXPECT_EQ(reader.names(),
            (std::vector<std::string>{"m.weight", "n.weight", "optimizer.first_moment.m.weight",
                                      "optimizer.first_moment.n.weight", "optimizer.second_moment.m.weight",
                                      "optimizer.second_moment.n.weight"}));
  std::vector<float> stored(15);
  reader.read("m.weight", 0, std::span<float>(stored));
  std::vector<float> held = values();
  held.resize(15);
  EXPECT_EQ(stored, held);
}

// Memory of a machine that has none left, as long as it is told so.
class ScarceAllocator final : public Allocator {
 public:
  ScarceAllocator() : Allocator(Device{}) {}
  ~ScarceAllocator() override { release_cached(); }
  bool empty = false;

 protected:
  void* system_allocate(int64_t bytes) override {
    return empty ? nullptr : std::aligned_alloc(256, static_cast<size_t>(bytes + 255) / 256 * 256);
  }
  void system_free(void* data, int64_t) override { std::free(data); }
};

// Two slots is all that a save gets: more refusals than that must not leave later saves waiting for a third.
TEST_F(CheckpointTest, ASaveWithoutMemoryFailsAndTheNextOneWorks) {
  ScarceAllocator memory;
  CpuStream copies(memory, pool_);
  CheckpointSaver saver({bucket_.get()}, Mesh({}, 0), *world_, stream_, copies,
                        {.run_dir = dir_.path(), .host_buffer_bytes = 0});
  memory.empty = true;
  for (const int64_t step : {1, 2, 3}) {
    saver.begin({.step = step}, stream_);
    saver.wait_copied(stream_);
    EXPECT_NE(saver.settle().find("step " + std::to_string(step) + " was not saved"), std::string::npos);
  }
  EXPECT_EQ(names(), std::vector<std::string>{});
  memory.empty = false;
  saver.begin({.step = 4}, stream_);
  EXPECT_EQ(saver.settle(), "");
  EXPECT_EQ(CheckpointReader::verify(saver.path_of(4)), std::vector<std::string>());
}

TEST_F(CheckpointTest, AMemoryThatIsFullFailsTheSaveOnly) {
  struct BrokenFiles final : testing::FaultyFiles {
    std::unique_ptr<OutputFile> create(const std::string& path) override {
      if (path.find(broken) != std::string::npos) throw std::bad_alloc();
      return FaultyFiles::create(path);
    }
    std::string broken;
  };
  BrokenFiles files;
  CheckpointSaver saver({bucket_.get()}, Mesh({}, 0), *world_, stream_, copies_,
                        {.run_dir = dir_.path(), .files = &files});
  for (const char* broken : {"rank-", "manifest.json"}) {
    files.broken = broken;
    saver.begin({.step = 1}, stream_);
    EXPECT_NE(saver.settle().find("out of memory"), std::string::npos) << broken;
    EXPECT_EQ(names(), std::vector<std::string>{});
  }
}

// A size in bytes that doesn't fit into 64 bits must not pass for a small one.
TEST_F(CheckpointTest, SizesBeyondAllMeasureAreRefused) {
  const Shape shape{int64_t{1} << 60};
  Manifest manifest;
  manifest.files = {{"f", 8, {1}}};
  manifest.tensors = {{"t", FileDType::f64, shape, {{0, 0, Box::whole(shape)}}}};
  write_manifest(local_files(), dir_.path(), manifest);
  EXPECT_THROW(read_manifest(dir_.path()), DataError);
}

// A file that is cut while it is open (or a disk that doesn't give a page): an error, not the signal SIGBUS.
TEST_F(CheckpointTest, AFileThatShrinksWhileItIsReadIsNamed) {
#ifndef MADV_POPULATE_READ
  GTEST_SKIP() << "needs the headers of Linux 5.14";
#endif
  const std::string path = save(1);
  const CheckpointReader reader(path);
  fs::resize_file(path + "/rank-00000.safetensors", 0);
  const std::string message = message_of<DataError>(
      [&] { load_checkpoint(reader, stream_, parameters_, {bucket_.get()}, StateParts::everything); });
  EXPECT_NE(message.find("cannot read the file"), std::string::npos) << message;
  EXPECT_NE(message.find("rank-00000.safetensors"), std::string::npos) << message;
}

// Whatever the places in memory and the pieces in which a chunk comes.
TEST(ChunkHash, CopiesAndHashesAtOnce) {
  std::vector<std::byte> from(300'000);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 251);
  ChunkHash hash;
  for (const size_t shift : {0, 1, 8, 31, 64}) {
    for (const size_t piece : {1'000'000, 65'537, 1000, 63}) {
      std::vector<std::byte> to(from.size() + 200, std::byte{9});
      const size_t bytes = from.size() - shift;
      for (size_t at = 0; at < bytes; at += piece) {
        const auto n = static_cast<int64_t>(std::min(piece, bytes - at));
        hash.copy(from.data() + shift + at, to.data() + 3 * shift + at, n);
      }
      EXPECT_EQ(hash.take(), hash_bytes(from.data() + shift, bytes)) << shift << ", " << piece;
      EXPECT_TRUE(std::equal(from.begin() + static_cast<std::ptrdiff_t>(shift), from.end(),
                             to.begin() + static_cast<std::ptrdiff_t>(3 * shift)));
      const size_t end = 3 * shift + bytes;
      EXPECT_TRUE(to[end] == std::byte{9} && (shift == 0 || to[3 * shift - 1] == std::byte{9}));
    }
  }
}

// Files are larger than a slot of host memory: a stretch of elements goes on in the next one.
TEST_F(CheckpointTest, SlotsThatAreSmallerThanTheFileWriteTheSameFile) {
  const std::vector<float> moments{1, 2, 3, 4, 5, 6, 7};
  bucket_->write(stream_, norm_.parts[0], Bucket::Buffer::first_moment, moments.data());
  const SavePlan plan({bucket_.get()}, Mesh({}, 0));
  for (const int64_t slot_bytes : {8, 24, 64, 200}) {
    const std::string dir = dir_ / std::to_string(slot_bytes);
    HostSlots slots(stream_, slot_bytes, /*budget_bytes=*/0);
    SaveJob job(plan, local_files(), dir, stream_, copies_, slots);
    job.wait_copied(stream_);
    EXPECT_EQ(job.wait().bytes, plan.file_bytes());
    const SafetensorsReader reader(dir + "/" + plan.file_name());
    std::vector<float> stored(22);
    reader.read("m.weight", 0, std::span(stored).first(15));
    reader.read("optimizer.first_moment.n.weight", 0, std::span(stored).subspan(15));
    EXPECT_EQ(stored, values()) << slot_bytes;
  }
}

// With slots for a part of the state and a disk that takes nothing, the update has to wait: else it would change what was not
// copied yet.
TEST_F(CheckpointTest, TheUpdateWaitsForTheCopies) {
  struct SlowFiles final : testing::FaultyFiles {
    std::unique_ptr<OutputFile> create(const std::string& path) override {
      opened.get_future().wait();
      return FaultyFiles::create(path);
    }
    std::promise<void> opened;
  };
  const SavePlan plan({bucket_.get()}, Mesh({}, 0));
  const std::vector<float> before = values();
  SlowFiles files;
  HostSlots slots(stream_, /*slot_bytes=*/64, /*budget_bytes=*/0);
  SaveJob job(plan, files, dir_ / "slow", stream_, copies_, slots);
  auto update = std::async(std::launch::async, [&] {
    job.wait_copied(stream_);
    bucket_->initialize(stream_, 99);
  });
  EXPECT_EQ(update.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  EXPECT_EQ(values(), before);
  files.opened.set_value();
  update.wait();
  EXPECT_NE(values(), before);
  job.wait();
  std::vector<float> stored(15);
  SafetensorsReader(dir_ / "slow/" + plan.file_name()).read("m.weight", 0, std::span<float>(stored));
  EXPECT_EQ(stored, std::vector<float>(before.begin(), before.begin() + 15));
}

TEST_F(CheckpointTest, OldOnesArePruned) {
  for (const int64_t step : {10, 20, 30, 40, 50}) save(step);
  prune_checkpoints(local_files(), dir_.path(), /*keep_last=*/2, /*keep_every=*/20);
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000020", "step-00000040", "step-00000050"}));
  // A damaged newest one neither counts nor goes: the newest valid one stays.
  fs::remove(dir_ / "checkpoints/step-00000050/rank-00000.safetensors");
  prune_checkpoints(local_files(), dir_.path(), /*keep_last=*/1, /*keep_every=*/0);
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000040", "step-00000050"}));
}

TEST_F(CheckpointTest, LeftoversGoBeforeTheFirstStep) {
  save(10);
  fs::create_directories(dir_ / "checkpoints/step-00000060.tmp");
  write_file(dir_ / "checkpoints/step-00000060.tmp/rank-00000.safetensors", "half");
  CheckpointSaver saver({bucket_.get()}, Mesh({}, 0), *world_, stream_, copies_, {.run_dir = dir_.path()});
  saver.rehearse();
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000010"}));
}

TEST_F(CheckpointTest, FilesOfAnOlderAttemptDontComeAlong) {
  fs::create_directories(dir_ / "checkpoints/step-00000010.tmp");
  write_file(dir_ / "checkpoints/step-00000010.tmp/rank-00007.safetensors", "of a larger world");
  const std::string path = save(10);
  EXPECT_EQ(std::distance(fs::directory_iterator(path), fs::directory_iterator()), 2) << "a file and the manifest";
}

// A rank too few, as if the others' shares had been lost on the way.
TEST_F(CheckpointTest, WhatDoesNotCoverTheTensorsIsNotPutInPlace) {
  Parameter large;
  large.name = "l.weight";
  large.shape = {256, 256};
  large.part = LocalPart::whole(large.shape);
  Weight weight(large);
  Bucket bucket(stream_, "b", {&weight}, {});
  CheckpointSaver saver({&bucket}, Mesh({.data_replica = 2}, 0), *world_, stream_, copies_, {.run_dir = dir_.path()});
  saver.begin({.step = 10}, stream_);
  EXPECT_CONTAINS(saver.settle(), "was not written whole");
  EXPECT_EQ(names(), std::vector<std::string>{});
}

TEST_F(CheckpointTest, LaterOnesAreSetAside) {
  const std::string from = save(10);
  save(20);
  save(30);
  EXPECT_EQ(set_aside_later_checkpoints(local_files(), dir_.path(), 10, from).size(), 2u);
  EXPECT_EQ(latest_checkpoint(dir_.path()), from);
  save(20);
  EXPECT_EQ(set_aside_later_checkpoints(local_files(), dir_.path(), 0, "").size(), 2u);
  EXPECT_EQ(latest_checkpoint(dir_.path()), std::nullopt);
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000010.aside", "step-00000020.aside", "step-00000020.aside-1",
                                               "step-00000030.aside"}));
}

TEST_F(CheckpointTest, WithoutAValidManifestThereIsNone) {
  const std::string old_path = save(1);
  const std::string path = save(2);
  const std::string manifest = read_file(path + "/manifest.json");
  // Any changed character makes it invalid; the older one is found instead.
  for (size_t at = 0; at < manifest.size(); at += 7) {
    std::string changed = manifest;
    changed[at] = changed[at] == ' ' ? '\t' : ' ';
    write_file(path + "/manifest.json", changed);
    ASSERT_EQ(latest_checkpoint(dir_.path()), old_path) << at;
  }
  write_file(path + "/manifest.json", manifest);
  EXPECT_EQ(latest_checkpoint(dir_.path()), path);
  fs::remove(path + "/manifest.json");
  EXPECT_EQ(latest_checkpoint(dir_.path()), old_path);
  EXPECT_EQ(latest_checkpoint(dir_ / "nowhere"), std::nullopt);
}

TEST_F(CheckpointTest, NewerFormatAndDamageAreNamed) {
  const std::string path = save(1);
  const std::string manifest = read_file(path + "/manifest.json");
  const std::string key = "\"format_version\":2";
  ASSERT_NE(manifest.find(key), std::string::npos);
  std::string newer = manifest;
  newer.replace(newer.find(key), key.size(), "\"format_version\":9");
  write_file(path + "/manifest.json", newer);
  EXPECT_NE(message_of<DataError>([&] { read_manifest(path); }).find("newer"), std::string::npos);
  write_file(path + "/manifest.json", manifest);
  const std::string file = path + "/rank-00000.safetensors";
  const std::string bytes = read_file(file);
  std::string flipped = bytes;
  flipped.back() ^= 4;
  write_file(file, flipped);
  for (const std::string part : {"rank-00000.safetensors", "chunk 0", "m.weight", "expected hash", "found"}) {
    EXPECT_NE(message_of<DataError>([&] { load(path); }).find(part), std::string::npos) << part;
  }
  EXPECT_EQ(CheckpointReader::verify(path).size(), 1u);
  write_file(file, bytes.substr(0, bytes.size() - 1));
  EXPECT_NE(message_of<DataError>([&] { load(path); }).find("another size"), std::string::npos);
  write_file(file, bytes);
  load(path);
  parameters_.pop_back();
  EXPECT_NE(message_of<DataError>([&] { load(path); }).find("another model"), std::string::npos);
}

}  // namespace
}  // namespace trireme
