// What can happen to a run's checkpoints from outside: a full disk, a read-only one, files that vanish, other models, newer
// programs. One clear message, the documented exit code, nothing lost, and the run goes on where it can.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <sstream>
#include <thread>

#include "checkpoint/directory.h"
#include "checkpoint/reader.h"
#include "tests/fault/program.h"
#include "tests/fault/victim.h"
#include "tests/training.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::count_of;
using testing::ProgramResult;
using testing::read_file;
using testing::run_program;
using testing::state_hashes;
using testing::StateHashes;
using testing::Victim;
using testing::write_file;

// A small disk of its own, writable or not.
class SmallDisk {
 public:
  SmallDisk(const std::string& path, const std::string& size) : path_(path) {
    fs::create_directories(path);
    mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  void set(const std::string& size, bool read_only) const {
    ASSERT_EQ(::mount("tmpfs", path_.c_str(), "tmpfs", read_only ? MS_REMOUNT | MS_RDONLY : MS_REMOUNT + 0u,
                      ("size=" + size).c_str()),
              0);
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

class BadSurroundings : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_corpus(dir_ / "corpus", 6000);
    write_file(dir_ / "config.yaml", testing::tiny_yaml(dir_, 4));
  }

  std::string run_dir() const { return dir_ / "run"; }
  std::string checkpoints() const { return checkpoints_directory(run_dir()); }
  std::string checkpoint(int64_t step) const { return checkpoint_path(run_dir(), step); }

  ProgramResult train(int ranks = 1, const std::string& sets = "") const {
    return run_program((ranks > 1 ? testing::mpirun(ranks) + " " : "") + "TRIREME train '" + (dir_ / "config.yaml") +
                       "' --set checkpoint.every=1 " + (ranks > 1 ? "--set parallel.zero=1 " : "") + sets);
  }

  // One message on standard error with these parts, behind `kind` ("error: " or "warning: ").
  static void expect_one(const ProgramResult& result, const std::string& kind, const std::vector<std::string>& parts) {
    EXPECT_EQ(count_of(result.err, kind), 1) << result.err;
    for (const std::string& part : parts)
      EXPECT_NE(result.err.find(part), std::string::npos) << part << "\n" << result.err;
  }
  static void expect_error(const ProgramResult& result, int code, const std::vector<std::string>& parts) {
    EXPECT_EQ(result.exit_code, code) << result.err;
    expect_one(result, "error: ", parts);
  }

  // The last checkpoint of a run in which nothing happens.
  StateHashes undisturbed(int ranks = 1) {
    const ProgramResult result = train(ranks, "--set 'run.dir=" + (dir_ / "undisturbed") + "'");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return state_hashes(checkpoint_path(dir_ / "undisturbed", 4));
  }

  static void wait_until(const std::function<bool()>& happened, Victim& victim) {
    while (!happened() && victim.alive()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(happened());
  }
  std::unique_ptr<Victim> start_endless() const {
    return std::make_unique<Victim>(
        std::vector<std::string>{"train", dir_ / "config.yaml", "--set", "checkpoint.every=1", "--set",
                                 "checkpoint.keep_last=1", "--set", "run.steps=10000000"},
        1, dir_.path(), dir_ / "log");
  }

  testing::TempDir dir_;
};

#define NEEDS_MOUNT(disk) \
  if (!(disk).mounted()) GTEST_SKIP() << "mounting a small tmpfs needs root"

TEST_F(BadSurroundings, TooLittleSpaceIsSaidBeforeTheFirstStep) {
  const SmallDisk disk(checkpoints(), "32k");
  NEEDS_MOUNT(disk);
  for (const int ranks : {1, 2}) {
    expect_error(train(ranks), 4, {"doesn't fit on the disk", "expected", "found", checkpoints(), "free"});
    EXPECT_EQ(read_file(run_dir() + "/metrics.jsonl"), "");
  }
}

TEST_F(BadSurroundings, ReadOnlyDirectoryIsSaidBeforeTheFirstStep) {
  const SmallDisk disk(checkpoints(), "10m");
  NEEDS_MOUNT(disk);
  disk.set("10m", /*read_only=*/true);
  for (const int ranks : {1, 2}) {
    expect_error(train(ranks), 4, {"Read-only file system", checkpoints(), "may write to"});
    EXPECT_EQ(read_file(run_dir() + "/metrics.jsonl"), "");
  }
}

// A save that finds the disk full is a warning, the steps go on, and only the last one makes the exit code 4. With more
// space the same command goes on from what there is.
TEST_F(BadSurroundings, DiskFullInTheMiddleOfASave) {
  for (const int ranks : {1, 2}) {
    fs::remove_all(dir_ / "undisturbed");
    const StateHashes expected = undisturbed(ranks);
    fs::remove_all(run_dir());
    const SmallDisk disk(checkpoints(), "10m");
    NEEDS_MOUNT(disk);
    ASSERT_EQ(train(ranks, "--set run.steps=1").exit_code, 0);
    uintmax_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(checkpoint(1)))
      bytes += (fs::file_size(entry) + 4095) / 4096 * 4096;
    disk.set(std::to_string(bytes * 29 / 10), /*read_only=*/false);
    const ProgramResult result = train(ranks);
    expect_error(result, 4, {"step 3 was not saved", "No space left on device", "freeing space", "step 4"});
    EXPECT_EQ(count_of(result.err, "step 3 was not saved"), 1) << result.err;
    EXPECT_EQ(count_of(read_file(run_dir() + "/metrics.jsonl"), "\"step\""), 4);
    EXPECT_EQ(latest_checkpoint(run_dir()), checkpoint(2));
    for (const int64_t step : {1, 2}) EXPECT_EQ(CheckpointReader::verify(checkpoint(step)), std::vector<std::string>{});
    for (const auto& entry : fs::directory_iterator(checkpoints()))
      EXPECT_NE(entry.path().extension(), ".tmp") << entry;
    disk.set("10m", /*read_only=*/false);
    const ProgramResult again = train(ranks);
    EXPECT_EQ(again.exit_code, 0) << again.err;
    EXPECT_NE(again.err.find("continuing from " + checkpoint(2)), std::string::npos) << again.err;
    EXPECT_EQ(state_hashes(checkpoint(4)), expected);
  }
}

// The space goes while the run is under way, and comes back: saves fail, with a warning each, and succeed again.
TEST_F(BadSurroundings, SpaceThatComesBack) {
  const SmallDisk disk(checkpoints(), "1m");
  NEEDS_MOUNT(disk);
  const auto victim = start_endless();
  const auto said = [&](const std::string& text) { return read_file(dir_ / "log").find(text) != std::string::npos; };
  wait_until([&] { return latest_checkpoint(run_dir()).has_value(); }, *victim);
  // Until there is no room left.
  std::string filler(900'000, 'x');
  const std::string filler_path = checkpoints() + "/filler";
  wait_until(
      [&] {
        std::ofstream(filler_path, std::ios::binary | std::ios::app) << filler;
        return said("was not saved");
      },
      *victim);
  EXPECT_TRUE(said("No space left on device"));
  const auto kept = latest_checkpoint(run_dir());
  ASSERT_TRUE(kept.has_value());
  fs::remove(filler_path);
  wait_until([&] { return latest_checkpoint(run_dir()).value_or("") > *kept; }, *victim);
  victim->signal(SIGTERM);
  EXPECT_EQ(victim->end(), 0) << read_file(dir_ / "log");
  EXPECT_EQ(CheckpointReader::verify(*latest_checkpoint(run_dir())), std::vector<std::string>{});
}

// The disk of the run directory is full for a while: the run goes on, and no row is missing in the end.
TEST_F(BadSurroundings, RowsWaitForSpace) {
  const SmallDisk disk(run_dir(), "4m");
  NEEDS_MOUNT(disk);
  Victim victim({"train", dir_ / "config.yaml", "--set", "run.steps=10000000", "--set", "checkpoint.every=0"}, 1,
                dir_.path(), dir_ / "log");
  const std::string metrics = run_dir() + "/metrics.jsonl";
  const auto said = [&](const std::string& text) { return read_file(dir_ / "log").find(text) != std::string::npos; };
  wait_until([&] { return count_of(read_file(metrics), "\"step\"") > 3; }, victim);
  const std::string filler_path = run_dir() + "/filler";
  wait_until(
      [&] {
        std::ofstream(filler_path, std::ios::binary | std::ios::app) << std::string(4096, 'x');
        return said("its rows wait");
      },
      victim);
  EXPECT_TRUE(said("No space left on device"));
  const int rows = count_of(read_file(metrics), "\"step\"");
  fs::remove(filler_path);
  wait_until([&] { return count_of(read_file(metrics), "\"step\"") > rows; }, victim);
  victim.signal(SIGTERM);
  EXPECT_EQ(victim.end(), 0) << read_file(dir_ / "log");
  std::istringstream lines(read_file(metrics));
  int64_t step = 0;
  for (std::string line; std::getline(lines, line);) {
    ASSERT_TRUE(line.starts_with("{\"step\":" + std::to_string(++step) + ",")) << line;
  }
  EXPECT_GT(step, rows);
}

// The disk becomes read-only while the run is under way, as after an error of the disk. The stop that asks for a last save
// then ends with 4.
TEST_F(BadSurroundings, DiskThatBecomesReadOnly) {
  const SmallDisk disk(checkpoints(), "10m");
  NEEDS_MOUNT(disk);
  {
    const auto victim = start_endless();
    wait_until([&] { return latest_checkpoint(run_dir()).has_value(); }, *victim);
    // Refused while a file is open for writing.
    wait_until(
        [&] { return ::mount("tmpfs", checkpoints().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=10m") == 0; },
        *victim);
    wait_until([&] { return read_file(dir_ / "log").find("was not saved") != std::string::npos; }, *victim);
    victim->signal(SIGTERM);
    EXPECT_EQ(victim->end(), 4) << read_file(dir_ / "log");
  }
  const std::string log = read_file(dir_ / "log");
  EXPECT_NE(log.find("Read-only file system"), std::string::npos) << log;
  EXPECT_EQ(count_of(log, "error: "), 1);
  const auto kept = latest_checkpoint(run_dir());
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(CheckpointReader::verify(*kept), std::vector<std::string>{});
  disk.set("10m", /*read_only=*/false);
  const ProgramResult again = train(1, "--set run.steps=" + std::to_string(read_manifest(*kept).step + 2));
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("continuing from " + *kept), std::string::npos) << again.err;
}

TEST_F(BadSurroundings, TracesThatCannotBeWritten) {
  fs::create_directories(run_dir());
  write_file(run_dir() + "/traces", "a file");
  const ProgramResult result =
      train(2, "--set profile.start=2 --set parallel.pipeline=2 --set checkpoint.every=2 --set parallel.zero=0");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(count_of(result.err, "error: "), 0) << result.err;
  EXPECT_EQ(count_of(result.err, "warning: "), 2) << "a trace and a timeline: " << result.err;
  EXPECT_EQ(latest_checkpoint(run_dir()), checkpoint(4));
}

TEST_F(BadSurroundings, VanishedShard) {
  const StateHashes expected = undisturbed(2);
  ASSERT_EQ(train(2, "--set run.steps=3").exit_code, 0);
  // The older one is taken, with a warning; the run ends as it would have.
  fs::remove(checkpoint(3) + "/rank-00001.safetensors");
  const ProgramResult result = train(2);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("continuing from " + checkpoint(2)), std::string::npos) << result.err;
  EXPECT_EQ(count_of(result.err, "passed over"), 1) << result.err;
  EXPECT_NE(result.err.find("missing"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(checkpoint(3) + "/rank-00001.safetensors"), std::string::npos) << result.err;
  EXPECT_EQ(state_hashes(checkpoint(4)), expected);
  // None is left: an error, never a start from nothing; what is there stays.
  for (const int64_t step : {1, 2, 3, 4}) fs::remove(checkpoint(step) + "/rank-00000.safetensors");
  expect_error(train(2), 3, {"no checkpoint of the run can be used", "missing", "rank-00000.safetensors", "resume"});
  for (const int64_t step : {1, 2, 3, 4}) EXPECT_TRUE(fs::exists(checkpoint(step) + "/manifest.json"));
}

TEST_F(BadSurroundings, FlippedBitOfTheNewest) {
  const StateHashes expected = undisturbed(2);
  ASSERT_EQ(train(2, "--set run.steps=3").exit_code, 0);
  const std::string file = checkpoint(3) + "/rank-00001.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] ^= 16;
  write_file(file, bytes);
  const ProgramResult verify = run_program("TRIREME checkpoint verify '" + run_dir() + "'");
  EXPECT_EQ(verify.exit_code, 3) << verify.err;
  for (const std::string& part : {file + ", chunk 0", std::string("expected hash"), "OK " + checkpoint(2)}) {
    EXPECT_NE(verify.out.find(part), std::string::npos) << part << "\n" << verify.out;
  }
  const ProgramResult result = train(2);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(count_of(result.err, "passed over"), 1) << result.err;
  for (const std::string& part :
       {"continuing from " + checkpoint(2), file, std::string("damaged"), std::string("chunk 0")}) {
    EXPECT_NE(result.err.find(part), std::string::npos) << part << "\n" << result.err;
  }
  EXPECT_EQ(state_hashes(checkpoint(4)), expected);
}

TEST_F(BadSurroundings, CheckpointOfAnotherModel) {
  ASSERT_EQ(train(2, "--set run.steps=2").exit_code, 0);
  const StateHashes before = state_hashes(checkpoint(2));
  for (const char* change : {"model.hidden_size=48", "model.num_hidden_layers=3", "model.tie_word_embeddings=true"}) {
    for (const int ranks : {1, 2}) {
      expect_error(train(ranks, std::string("--set ") + change), 3, {"of another model", checkpoint(2)});
    }
  }
  EXPECT_EQ(state_hashes(checkpoint(2)), before);
  // Said of a path as well.
  expect_error(train(1, "--set model.hidden_size=48 --set 'checkpoint.resume=" + checkpoint(1) +
                            "' --set 'run.dir=" + (dir_ / "other") + "'"),
               3, {"of another model", checkpoint(1)});
}

TEST_F(BadSurroundings, NewerFormat) {
  ASSERT_EQ(train(1, "--set run.steps=2").exit_code, 0);
  const auto make_newer = [&](int64_t step) {
    const std::string file = checkpoint(step) + "/manifest.json";
    std::string text = read_file(file);
    const std::string key = "\"format_version\":" + std::to_string(kManifestVersion);
    ASSERT_NE(text.find(key), std::string::npos);
    text.replace(text.find(key), key.size(), "\"format_version\":" + std::to_string(kManifestVersion + 1));
    write_file(file, text);
  };
  make_newer(2);
  expect_error(run_program("TRIREME checkpoint verify '" + checkpoint(2) + "'"), 3,
               {"newer", "format version", checkpoint(2)});
  // Goes on from the older one, and keeps the newer one under another name.
  const std::string newer = read_file(checkpoint(2) + "/manifest.json");
  const ProgramResult result = train();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("continuing from " + checkpoint(1)), std::string::npos) << result.err;
  EXPECT_EQ(count_of(result.err, "newer than this program"), 1) << result.err;
  EXPECT_EQ(read_file(checkpoint(2) + ".aside/manifest.json"), newer);
  for (const int64_t step : {1, 2, 3, 4}) make_newer(step);
  expect_error(train(), 3, {"newer", "resume"});
}

}  // namespace
}  // namespace trireme
