// Saves of a run: each rank writes its file behind the next steps (save_job.h); when all have, rank 0 writes the manifest
// and renames the directory into place. One save is in flight at most.
//
//   begin ─ every rank writes step-00000100.tmp/rank-*.safetensors ─ all done? ─ collect ─ rank 0: manifest, rename, prune
//
// Whether all ranks have written is what they tell each other with the numbers of a step anyway; the saver itself never
// waits for other ranks but in the calls marked collective, which all ranks make at the same point.
// Thread safety: one rank's thread. Errors: a failure of a save is none; it is reported and the save has left nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/save_job.h"
#include "checkpoint/save_plan.h"
#include "parallel/comm/communicator.h"

namespace trireme {

// Where a run stands.
struct CheckpointState {
  int64_t step = 0;              // finished updates
  int64_t consumed_samples = 0;  // sequences that they took
  int64_t seed = 0;
  std::string layout = {};       // for people
  std::string config_yaml = {};  // the resolved configuration
};

class CheckpointSaver {
 public:
  struct Options {
    std::string run_dir;
    int64_t host_buffer_bytes = int64_t{4} << 30;  // bound of the snapshot in host memory
    std::vector<std::string> parameters = {};      // names, of the whole model; a save without one of them fails
    int64_t keep_last = 0;                         // prune_checkpoints
    int64_t keep_every = 0;
    FileSystem* files = &local_files();
    // Called on rank 0 with what went wrong in a save behind the training; may be empty.
    std::function<void(const std::string&)> warn = {};
  };

  // `world` connects the ranks' host memory, with `host_stream`; `copies` is a stream of the device that nobody else
  // uses. They and the buckets outlive the object.
  CheckpointSaver(const std::vector<Bucket*>& buckets, const Mesh& mesh, Communicator& world, Stream& host_stream,
                  Stream& copies, Options options);
  // Waits for this rank's threads. A save that isn't settled is lost.
  ~CheckpointSaver();

  // Before step 1: what would fail a save fails now. Removes what interrupted saves left, writes and removes a file on
  // every rank, looks for space and for a directory that all ranks share. Collective. MachineError.
  void rehearse();

  // Starts to save the state as the work queued on `compute` until now leaves it; settles an earlier save first.
  // Collective.
  void begin(const CheckpointState& state, Stream& compute);
  // A save was begun and not yet collected.
  bool in_flight() const { return job_ != nullptr; }
  // This rank still writes.
  bool writing() const { return job_ != nullptr && !job_->done(); }
  // Before work is queued on `compute` that changes the state.
  void wait_copied(Stream& compute);
  // When no rank is writing any more: the rest happens on rank 0, behind the next steps. Collective.
  void collect();
  // Waits until the save is in its place. Says on every rank why it failed, if it did; it is not reported else. Collective.
  std::string settle();

  // Reports how the last save ended as soon as it has; call now and then.
  void report_finished();
  // Where the checkpoint of this step lies, once it is settled.
  std::string path_of(int64_t step) const;
  const std::string& file_name() const { return plan_.file_name(); }  // that this rank writes
  int64_t file_bytes() const { return plan_.file_bytes(); }

 private:
  struct Outcome {
    bool saved = false;
    std::string problem;
  };

  Outcome commit(const std::vector<std::string>& shares) const;
  void put_in_place(const std::vector<std::string>& shares) const;
  std::string take_commit();
  void report(const std::string& problem) const;

  SavePlan plan_;
  Communicator& world_;
  Stream& host_stream_;
  Stream& copies_;
  Options options_;
  HostSlots slots_;
  CheckpointState state_;  // of the save in flight
  std::unique_ptr<SaveJob> job_;
  std::future<Outcome> commit_;  // on rank 0
};

}  // namespace trireme
