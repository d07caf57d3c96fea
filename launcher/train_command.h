// The commands that run a model: `train`, `probe`, `generate`, from parsed options to an exit code.
#pragma once

#include <string>
#include <vector>

#include "launcher/generate.h"
#include "launcher/probe.h"

namespace trireme {

struct TrainOptions {
  std::string config;             // path of the YAML file
  std::vector<std::string> sets;  // --set key=value
  bool dump_config = false;       // print the resolved configuration and stop
  bool dry_run = false;           // check everything, print the plan, stop before step 1
};

// Each connects the ranks where mpirun or srun started several, and returns the process's exit code. What fails before the ranks are
// connected is thrown by the first rank; the others throw PeerError, which stays silent.
int run_train(const TrainOptions& options);
int run_probe(const ProbeOptions& options, const std::vector<std::string>& sets);
int run_generate(const GenerateOptions& options);

}  // namespace trireme
