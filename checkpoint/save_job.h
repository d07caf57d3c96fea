// One save of one rank: its file is put together in host memory while training computes, and written behind that.
//
//   device ──(copier thread, stream of its own)──▶ chunks of the file in host memory ──(writer thread)──▶ file
//
// The copier leaves the padding out, so that a slot holds 4 MiB of the file as they will stand there; the writer writes
// them. The hash is taken on the way: by the copier where it copies itself (a CPU), else by the writer. Slots are given back
// when written, so that the memory is bounded: with few slots the copies wait for the disk, and the next update waits for the
// copies.
// Thread safety: the methods are called by the rank's thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "checkpoint/chunk_hash.h"
#include "checkpoint/hashed_file.h"
#include "checkpoint/save_plan.h"
#include "core/device/device.h"

namespace trireme {

// Host memory that saves of one rank use one after another, allocated when it is first needed.
class HostSlots {
 public:
  // `stream`: where its memory comes from (Stream::host_allocator). At most `budget_bytes`, but two slots at least.
  HostSlots(Stream& stream, int64_t slot_bytes, int64_t budget_bytes);

  int64_t slot_bytes() const { return slot_bytes_; }
  // Waits for a free one.
  Tensor take();
  void give_back(Tensor slot);

 private:
  Stream& stream_;
  const int64_t slot_bytes_;
  int64_t num_left_;  // that may still be allocated
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Tensor> free_;
};

class SaveJob {
 public:
  // Starts to copy the state as the work queued on `compute` until now leaves it. `copies`: a stream of the same device
  // that nobody else uses. All references outlive the job.
  SaveJob(const SavePlan& plan, FileSystem& files, const std::string& directory, Stream& compute, Stream& copies,
          HostSlots& slots);
  ~SaveJob();  // waits for the threads

  // Work queued on `compute` from now on may change the state. Blocks until every copy is queued.
  void wait_copied(Stream& compute);
  // Whether the file is written, or has failed.
  bool done() const;
  // Waits until then. Throws what the save failed with.
  StoredFile wait();

 private:
  // A chunk of the file.
  struct Chunk {
    Tensor slot;
    int64_t bytes = 0;
    std::unique_ptr<Event> copied;
    std::optional<uint64_t> hash;
  };

  void copy_all(const Event& ready);
  void copy_pieces(Chunk& chunk);  // `chunk`: the one that is being filled; left undefined unless it fails
  void hand_over(Chunk& chunk);
  void give_up(Chunk& chunk);
  void write_all();
  void fail(std::exception_ptr error);
  bool failed() const;

  const SavePlan& plan_;
  FileSystem& files_;
  const std::string directory_;
  Stream& copies_;
  HostSlots& slots_;
  std::optional<ChunkHash> hash_;  // of the chunk that is being filled, where the copier copies itself

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Chunk> queue_;            // filled by the copier
  std::unique_ptr<Event> all_copied_;  // set when every copy is queued
  bool copier_done_ = false;
  bool writer_done_ = false;
  std::exception_ptr error_;
  StoredFile stored_;
  std::thread copier_;
  std::thread writer_;
};

}  // namespace trireme
