// The checkpoints of a run: RUN_DIR/checkpoints/step-00000100. What stands under another name, or has no valid manifest,
// is none.
//
// Errors: MachineError where the system refuses.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/formats/file_system.h"

namespace trireme {

std::string checkpoints_directory(const std::string& run_dir);
std::string checkpoint_path(const std::string& run_dir, int64_t step);

// True when `path` is a finished checkpoint directory (it has a manifest).
bool is_checkpoint(const std::string& path);

// Directories with a valid manifest whose files are all there with their sizes, newest first. `skipped`, if given,
// receives a message for every other directory that is named like a checkpoint. Hashes of tensors aren't checked.
std::vector<std::string> list_checkpoints(const std::string& run_dir, std::vector<std::string>* skipped = nullptr);
std::optional<std::string> latest_checkpoint(const std::string& run_dir);

// Deletes old checkpoints: the newest `keep_last` stay (0: all), and those whose step is a multiple of `keep_every`
// (0: none). The newest valid one always stays. A checkpoint is renamed before its files go, so that half of one never
// looks like a whole.
void prune_checkpoints(FileSystem& files, const std::string& run_dir, int64_t keep_last, int64_t keep_every);
// A run goes on from `step` finished steps: other checkpoints than `from` of this step or later ones are of another course
// of the run (before a return to an older one, say) or damaged. They are renamed to step-00000100.aside, where nothing
// looks for them and nothing deletes them. Returns the new paths.
std::vector<std::string> set_aside_later_checkpoints(FileSystem& files, const std::string& run_dir, int64_t step,
                                                     const std::string& from);
// Removes what interrupted saves and deletions left.
void remove_leftovers(FileSystem& files, const std::string& run_dir);

}  // namespace trireme
