// Saving and loading the state of a run: weights, optimizer states and where the run stands.
//
// A checkpoint is a directory RUN_DIR/checkpoints/step-00000100 (its format: README.md here). It is written under a
// temporary name and renamed when whole, so that a directory of that name with a valid manifest is always complete.
// Tensors are logical (unfused, unpadded, f32), named as in `Parameter::name`; any layout can load them.
// Errors: MachineError when writing fails (nothing is left behind), DataError when a checkpoint can't be used.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/model_state.h"

namespace trireme {

struct CheckpointState {
  int64_t step = 0;              // finished updates
  int64_t consumed_samples = 0;  // sequences that they took
  std::string config_yaml;       // the resolved configuration
};

// Writes RUN_DIR/checkpoints/step-XXXXXXXX; returns its path. Collective over the world: tensors are gathered one by one,
// the main rank writes them. It is there when the main rank returns.
std::string save_checkpoint(const std::string& run_dir, const CheckpointState& state, const ModelState& model);

// Of a checkpoint directory.
CheckpointState read_checkpoint_state(const std::string& path);

// Weights, and optimizer states where the model has them; every rank reads the files and takes its parts. Every file
// that is read is checked against its hashes. Returns what read_checkpoint_state does.
CheckpointState load_checkpoint(const std::string& path, const ModelState& model);

// The newest directory below RUN_DIR/checkpoints with a valid manifest.
std::optional<std::string> latest_checkpoint(const std::string& run_dir);

// Deletes old checkpoints: the newest `keep_last` stay (0: all), and those whose step is a multiple of `keep_every`
// (0: none). Also removes what an interrupted save left.
void prune_checkpoints(const std::string& run_dir, int64_t keep_last, int64_t keep_every);

// True when `path` is a checkpoint directory (it has a manifest).
bool is_checkpoint(const std::string& path);

}  // namespace trireme
