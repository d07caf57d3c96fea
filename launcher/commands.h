// The commands of the program, one function each. Results go to standard output, everything else to standard error.
//
// Each returns the exit code. An exception that leaves one is printed by the command line (launcher/cli.h), by the
// first rank only: it happened before the ranks were connected. What fails later, a command prints itself (run_rank).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/data/tokenize.h"
#include "launcher/generate.h"
#include "launcher/probe.h"

namespace trireme {

struct TrainArgs {
  std::string config;             // path of the YAML file
  std::vector<std::string> sets;  // key=value
  bool dump_config = false;       // prints the whole resolved configuration and stops
  bool dry_run = false;           // prints the plan and stops
};
int train_command(const TrainArgs& args);

struct LaunchArgs {
  std::optional<int> nproc;  // none: one per GPU, else 1; with hosts: all slots
  std::string hosts;         // an Open MPI host file; empty: this machine
  int max_restarts = 0;
  std::vector<std::string> command;  // of the program: train CONFIG …
};
int launch_command(const LaunchArgs& args);

int tokenize_command(TokenizeOptions options);
int inspect_command(const std::string& path, const std::string& tokenizer);
int generate_command(const GenerateOptions& options);
int probe_command(const ProbeOptions& options, const std::vector<std::string>& sets);

struct VerifyArgs {
  std::string config;             // path of the YAML file
  std::vector<std::string> sets;  // key=value
  bool no_shrink = false;         // as it is, with parallel.data 1 where it says auto
};
int verify_command(const VerifyArgs& args);

struct PlanArgs {
  std::string config;             // path of the YAML file
  std::vector<std::string> sets;  // key=value
  std::optional<int64_t> gpus;    // ranks; none: as many as the degrees make, with one of `data: auto`
  std::string times = "1:1:1";    // forward : backward input : backward weight of a layer
  std::string timeline;           // an SVG to write, and JSON beside it; empty: none
  bool json = false;              // the result for programs
};
int plan_command(const PlanArgs& args);

struct CheckpointInspectArgs {
  std::string path;   // a checkpoint, or a run directory (its newest); so are all paths of checkpoints below
  bool json = false;  // the result for programs
};
int checkpoint_inspect_command(const CheckpointInspectArgs& args);

// Of a run directory all of its checkpoints.
int checkpoint_verify_command(const std::string& path);

struct CheckpointDiffArgs {
  std::string a;
  std::string b;
  std::optional<double> tolerance;  // relative to the largest value of a tensor; none: every bit
  size_t rows = 30;                 // tensors to list; 0: all
};
int checkpoint_diff_command(const CheckpointDiffArgs& args);

struct CheckpointExportArgs {
  std::string path;
  std::string out;                     // a new directory
  std::string max_shard_size = "5GB";  // of a file
  std::string dtype;                   // fp32 or bf16; empty: as the checkpoint has it
};
int checkpoint_export_command(const CheckpointExportArgs& args);

struct CheckpointImportArgs {
  std::string path;  // a Hugging Face directory
  std::string out;   // a new directory
};
int checkpoint_import_command(const CheckpointImportArgs& args);

int doctor_command();

}  // namespace trireme
