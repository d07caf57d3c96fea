// What a user can get wrong: each gives one clear message and the documented exit code, and leaves nothing
// half-written.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "checkpoint/directory.h"
#include "checkpoint/manifest.h"
#include "core/formats/safetensors.h"
#include "tests/fault/program.h"
#include "tests/training.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::count_of;
using testing::ProgramResult;
using testing::run_program;
using testing::write_file;

class BadInput : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_corpus(dir_ / "corpus", 6000);
    write_file(config(), testing::tiny_yaml(dir_, 3));
  }

  std::string config() const { return dir_ / "config.yaml"; }
  std::string train(const std::string& sets = "") const {
    return "TRIREME train '" + config() + "' " + (sets.empty() ? "" : "--set " + sets);
  }

  // One message on standard error that has all of these parts, and the exit code.
  void expect_error(const std::string& command, int code, const std::vector<std::string>& parts) {
    const ProgramResult result = run_program(command);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(count_of(result.err, "error: "), 1) << result.err;
    for (const std::string& part : parts) {
      EXPECT_NE(result.err.find(part), std::string::npos) << "no '" << part << "' in: " << result.err;
    }
  }

  testing::TempDir dir_;
};

TEST_F(BadInput, ConfigurationErrorsNameFileLineAndRemedy) {
  write_file(config(), "run:\n  dir: x\n  stepz: 3\n");
  expect_error(train(), 2, {"stepz", "config.yaml:3", "steps"});
  write_file(config(), testing::tiny_yaml(dir_, 3));
  expect_error(train("run.steps=many"), 2, {"run.steps", "many"});
  expect_error(train("model.num_attention_heads=5"), 2, {"num_attention_heads", "24"});
  expect_error(train("batch.global=7"), 2, {"batch.global", "8"});
  expect_error("TRIREME train /no/such/file.yaml", 2, {"/no/such/file.yaml"});
  expect_error("TRIREME trian x.yaml", 2, {"trian"});
}

TEST_F(BadInput, WorldThatDoesNotFitTheBatchIsSaidOnce) {
  expect_error(testing::mpirun(3) + " " + train(), 2, {"batch.global", "multiple", "6", "or 12"});
  expect_error(testing::mpirun(2) + " " + train("parallel.data=3"), 2, {"parallel", "2 ranks"});
}

TEST_F(BadInput, DataThatCannotBeUsed) {
  const std::string bin = dir_ / "corpus.bin";
  const std::string idx = dir_ / "corpus.idx";
  const std::string tokens = testing::read_file(bin);
  const std::string index = testing::read_file(idx);

  expect_error(train("'data.train=[{path: /no/such/data}]'"), 3, {"/no/such/data"});
  fs::resize_file(bin, tokens.size() / 2);
  expect_error(train(), 3, {"corpus.bin", "expected", "found"});
  fs::resize_file(bin, 0);
  expect_error(train(), 3, {"corpus.bin"});
  write_file(bin, tokens);

  const auto damaged = [&](size_t at, char value) {
    std::string copy = index;
    copy[at] = value;
    write_file(idx, copy);
  };
  damaged(0, 'X');
  expect_error(train(), 3, {"corpus.idx", "magic"});
  damaged(17, 77);
  expect_error(train(), 3, {"corpus.idx", "77"});
  damaged(18, static_cast<char>(index[18] + 1));
  expect_error(train(), 3, {"corpus.idx"});
  damaged(34 + 4 * 2, static_cast<char>(index[34 + 4 * 2] + 1));
  expect_error(train(), 3, {"corpus"});
  write_file(idx, index);

  expect_error(train("model.vocab_size=50"), 3, {"corpus", "50", "token"});
  expect_error(train("data.sequence_length=100000"), 3, {"corpus", "100000"});
  expect_error(testing::mpirun(2) + " " + train("model.vocab_size=50"), 3, {"token"});
}

TEST_F(BadInput, RunDirectoryThatCannotBeWritten) {
  write_file(dir_ / "file", "in the way");
  expect_error(train("'run.dir=" + (dir_ / "file") + "/run'"), 4, {"file"});
}

TEST_F(BadInput, DiskFullWhileSavingKeepsTheOldCheckpoint) {
  const std::string disk = dir_ / "disk";
  fs::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=640k") != 0) {
    GTEST_SKIP() << "mounting a small tmpfs needs root";
  }
  struct Unmount {
    std::string path;
    ~Unmount() { ::umount(path.c_str()); }
  } unmount{disk};
  // Room for the first checkpoint, not for the second.
  expect_error(train("run.dir=" + disk +
                     "/run --set checkpoint.every=1 --set model.hidden_size=96 --set model.num_hidden_layers=1"),
               4, {"No space left on device", "checkpoints"});
  const std::optional<std::string> kept = latest_checkpoint(disk + "/run");
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(read_manifest(*kept).step, 1);
  for (const auto& entry : fs::directory_iterator(disk + "/run/checkpoints")) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  }
}

TEST_F(BadInput, ForeignOrBrokenHuggingFaceDirectory) {
  const fs::path golden = fs::path(TRIREME_SOURCE_DIR) / "tests/oracle/golden";
  const auto probe = [&](const std::string& model) {
    return "TRIREME probe '" + model + "' --tokens '" + (golden / "llama/tokens.safetensors").string() + "' --out '" +
           (dir_ / "out.safetensors") + "'";
  };
  expect_error(probe(dir_ / "nothing"), 2, {"nothing"});
  const fs::path copy = dir_ / "copy";
  const auto fresh = [&] {
    fs::remove_all(copy);
    fs::copy(golden / "llama", copy);
  };
  fresh();
  fs::remove(copy / "model.safetensors");
  expect_error(probe(copy), 3, {"copy"});
  fresh();
  fs::resize_file(copy / "model.safetensors", fs::file_size(copy / "model.safetensors") - 10);
  expect_error(probe(copy), 3, {"model.safetensors"});
  fresh();
  fs::copy_file(golden / "qwen3/model.safetensors", copy / "model.safetensors", fs::copy_options::overwrite_existing);
  expect_error(probe(copy), 3, {"tensor", "model.safetensors"});
  fresh();
  write_file(copy / "config.json", "{\"model_type\": \"mamba\"}");
  expect_error(probe(copy), 2, {"mamba"});
  EXPECT_FALSE(fs::exists(dir_ / "out.safetensors"));
}

TEST_F(BadInput, NotANumberStopsTheRunAndNamesTheTensor) {
  // The first update throws the weights so far out that the second step's matrix products overflow.
  for (const std::string& start : {std::string(), testing::mpirun(2) + " "}) {
    expect_error(start + train("optimizer.lr=1.0e30"), 5, {"not finite", "step 2", "NaN or Inf in"});
  }
  EXPECT_FALSE(latest_checkpoint(dir_ / "run").has_value());
  EXPECT_NE(testing::read_file(dir_ / "run/status.json").find("\"exit_code\": 5"), std::string::npos);
}

TEST_F(BadInput, StatusTellsOfARankThatFailedAlone) {
  // The second rank alone finds a token that the vocabulary doesn't have.
  std::string tokens = testing::read_file(dir_ / "corpus.bin");
  for (size_t i = 1; i < tokens.size(); i += 200) tokens[i] = 7;
  write_file(dir_ / "other.bin", tokens);
  fs::copy_file(dir_ / "corpus.idx", dir_ / "other.idx");
  const std::string other = "'data.train=[{path: " + (dir_ / "other") + "}]'";
  expect_error(
      testing::mpirun(1) + " " + train("run.steps=100000") + " : -np 1 " + train(other + " --set run.steps=100000"), 3,
      {"other.bin", "[rank 1]"});
  const std::string status = testing::read_file(dir_ / "run/status.json");
  EXPECT_NE(status.find("\"failed\""), std::string::npos) << status;
  EXPECT_NE(status.find("\"exit_code\": 3"), std::string::npos) << status;
}

TEST_F(BadInput, TasksOfSlurmWithoutPmix) {
  expect_error(
      "SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0 " + train(),
      2, {"--mpi=pmix"});
}

TEST_F(BadInput, DamagedCheckpointIsNamed) {
  ASSERT_EQ(run_program(train("run.steps=2")).exit_code, 0);
  const std::string checkpoint = *latest_checkpoint(dir_ / "run");
  std::string weights = testing::read_file(checkpoint + "/rank-00000.safetensors");
  weights[weights.size() - 3] ^= 1;
  write_file(checkpoint + "/rank-00000.safetensors", weights);
  expect_error(train(), 3, {"rank-00000.safetensors", "damaged", "chunk"});
  expect_error("TRIREME generate '" + (dir_ / "run") + "' --prompt x", 3, {"rank-00000.safetensors"});
  // Another model.
  fs::remove_all(dir_ / "run");
  ASSERT_EQ(run_program(train("run.steps=2")).exit_code, 0);
  expect_error(train("model.hidden_size=48"), 3, {"another model", "expected", "found"});
}

// The second of each pair comes as GNU timeout sends it, at once, and is no second request.
TEST_F(BadInput, StopSignalSavesAndExitsWithZero) {
  for (const char* signal : {"TERM", "INT"}) {
    fs::remove_all(dir_ / "run");
    const ProgramResult result = run_program("sh -c '" + std::string("exec TRIREME train ") + config() +
                                             " --set run.steps=100000' & pid=$!; "
                                             "while ! [ -s " +
                                             (dir_ / "run/metrics.jsonl") + " ]; do sleep 0.05; done; kill -" + signal +
                                             " $pid; sleep 0.001; kill -" + signal + " $pid; wait $pid");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const std::string status = testing::read_file(dir_ / "run/status.json");
    EXPECT_NE(status.find("\"stopped\""), std::string::npos) << status;
    ASSERT_TRUE(latest_checkpoint(dir_ / "run").has_value());
  }
}

}  // namespace
}  // namespace trireme
