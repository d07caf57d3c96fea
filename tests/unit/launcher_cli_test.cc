// The command line: help, errors, exit codes.
#include "launcher/cli.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/config/load.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

struct Outcome {
  int code;
  std::string out;
  std::string err;
};

Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "trireme");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = run_command_line(static_cast<int>(argv.size()), argv.data());
  Outcome outcome{code, ::testing::internal::GetCapturedStdout(), ::testing::internal::GetCapturedStderr()};
  return outcome;
}

// Exit code 2 and exactly this one line.
void expect_error(const std::vector<std::string>& arguments, const std::string& text) {
  const Outcome outcome = run(arguments);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "error: " + text + "\n");
}

// A configuration file for the life of the test.
class Cli : public ::testing::Test {
 protected:
  Cli() : path_(fs::path(::testing::TempDir()) / ("cli_test-" + std::to_string(::getpid()) + ".yaml")) {
    std::ofstream(path_) << R"(run: {dir: runs/x, steps: 4}
model: {model_type: llama, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8,
        vocab_size: 16, max_position_embeddings: 8}
data: {train: [{path: nowhere/data}], sequence_length: 4}
batch: {global: 2, micro: 2}
)";
  }
  ~Cli() override { fs::remove(path_); }

  fs::path path_;
};

TEST_F(Cli, EveryCommandHasHelpWithAnExample) {
  const std::vector<std::vector<std::string>> commands = {{},
                                                          {"train"},
                                                          {"launch"},
                                                          {"data"},
                                                          {"data", "tokenize"},
                                                          {"data", "inspect"},
                                                          {"generate"},
                                                          {"probe"},
                                                          {"verify"},
                                                          {"plan"},
                                                          {"checkpoint"},
                                                          {"checkpoint", "inspect"},
                                                          {"checkpoint", "verify"},
                                                          {"checkpoint", "diff"},
                                                          {"checkpoint", "export"},
                                                          {"checkpoint", "import"},
                                                          {"doctor"}};
  for (std::vector<std::string> command : commands) {
    command.push_back("--help");
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_NE(outcome.out.find("Example:\n  trireme "), std::string::npos) << outcome.out;
  }
  EXPECT_EQ(run({"--version"}).out.find("trireme "), 0u);
}

TEST_F(Cli, WrongWordsAreNamedWithTheNearest) {
  expect_error({"trian", "a.yaml"}, "unknown command 'trian'; try train");
  expect_error({"data", "inspekt", "x"}, "unknown command 'inspekt'; try inspect");
  expect_error({"train"}, "CONFIG is required; try trireme train --help");
  expect_error({"train", "a.yaml", "--dryrun"}, "The following argument was not expected: --dryrun; try --dry-run");
  expect_error({}, "A subcommand is required; try trireme --help");
  EXPECT_EQ(run({"generate", "runs/x", "--prompt", "a", "--top-k", "-1"}).code, 2);
  EXPECT_EQ(run({"data", "tokenize", "a.txt", "--out", "b"}).err,
            "error: --tokenizer is required; try trireme data tokenize --help\n");
}

TEST_F(Cli, DumpConfigLoadsAgain) {
  const Outcome outcome =
      run({"train", "--set", "run.steps=9", path_.string(), "--dump-config", "--set", "optimizer.betas=[0.5, 0.6]"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const Config config = parse_config(outcome.out, "dump");
  EXPECT_EQ(config.run.steps, 9);
  EXPECT_EQ(config.optimizer.betas[1], 0.6);
  EXPECT_EQ(config, load_config(path_.string(), {"run.steps=9", "optimizer.betas=[0.5, 0.6]"}));
}

TEST_F(Cli, HelpConfigPrintsTheReference) {
  const Outcome outcome = run({"train", "--help-config"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, config_reference());
}

TEST_F(Cli, ConfigurationErrorsExitWithTwo) {
  const Outcome misspelt = run({"train", path_.string(), "--set", "run.stepz=3"});
  EXPECT_EQ(misspelt.code, 2);
  EXPECT_EQ(misspelt.err, "error: unknown key run.stepz at --set run.stepz; try run.steps\n");
  EXPECT_EQ(run({"train", "no/such.yaml"}).code, 2);
}

TEST_F(Cli, DataErrorsExitWithThree) {
  const Outcome outcome = run({"train", path_.string(), "--set", "run.device=cpu", "--dry-run"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_NE(outcome.err.find("nowhere/data"), std::string::npos) << outcome.err;
  EXPECT_EQ(run({"data", "inspect", "nowhere/data"}).code, 3);
}

TEST_F(Cli, LaunchChecksTheInnerCommandFirst) {
  expect_error({"launch", "--nproc", "2"},
               "launch needs the command that its ranks run; try trireme launch --nproc 2 train CONFIG");
  expect_error({"launch", "--nproc", "2", "train"}, "CONFIG is required; try trireme train --help");
  expect_error({"launch", "train", "a.yaml", "--dryrun"},
               "The following argument was not expected: --dryrun; try --dry-run");
  expect_error({"launch", "--hosts", "no/hosts", "train", "a.yaml"},
               "the host file was not found at no/hosts; try lines of HOST slots=N");
  EXPECT_EQ(run({"launch", "--nproc", "0", "train", "a.yaml"}).code, 2);
}

TEST_F(Cli, TasksWithoutPmixAreRefusedOnce) {
  ::setenv("SLURM_NTASKS", "2", 1);
  ::setenv("SLURM_PROCID", "0", 1);
  const Outcome first = run({"train", path_.string()});
  ::setenv("SLURM_PROCID", "1", 1);
  const Outcome second = run({"train", path_.string()});
  const Outcome single = run({"data", "inspect", "nowhere/data"});
  ::unsetenv("SLURM_NTASKS");
  ::unsetenv("SLURM_PROCID");
  EXPECT_EQ(first.code, 2);
  EXPECT_NE(first.err.find("try `srun --mpi=pmix trireme train " + path_.string() + "`"), std::string::npos)
      << first.err;
  EXPECT_EQ(second.code, 2);
  EXPECT_EQ(second.err, "");
  EXPECT_EQ(single.code, 3);  // commands of one process don't care
}

TEST_F(Cli, DoctorNamesWhatIsThere) {
  const Outcome outcome = run({"doctor"});
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  for (const char* word : {"cpu ", "features", "avx2", "memory", "MPI", "Open MPI", "oneDNN", "GPU"}) {
    EXPECT_NE(outcome.out.find(word), std::string::npos) << word;
  }
}

}  // namespace
}  // namespace trireme
