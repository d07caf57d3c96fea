// Brings the microbatches of one data rank, read ahead by a background thread.
//
// Thread safety: `next` may be called by one thread at a time; the batches that it returns may be used and
// freed anywhere, also after the loader. Their buffers are used again once all copies are gone, so that a
// running loader allocates nothing.
// Errors: what reading throws (DataError) is thrown by `next`, in its place in the order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "core/data/batch_plan.h"
#include "core/data/bounded_queue.h"
#include "core/data/dataset.h"
#include "core/tensor/tensor.h"

namespace trireme {

// Host tensors, i32 [micro, T], valid as long as `storage` (or a copy of this struct) lives.
struct HostBatch {
  int64_t step = 0;
  int64_t microbatch = 0;
  int64_t num_valid_labels = 0;  // labels that count in the loss: those that aren't -100
  Tensor tokens;                 // [micro, T]
  Tensor labels;                 // [micro, T]
  Tensor positions;              // [micro, T]
  Tensor document_start;         // [micro, T]
  std::shared_ptr<void> storage;
};

struct LoaderOptions {
  int64_t data_rank = 0;
  // Steps [first_step, end_step); no end when absent.
  int64_t first_step = 0;
  std::optional<int64_t> end_step = std::nullopt;
  int64_t prefetch = 4;  // microbatches read ahead, 1 or more
};

class Loader {
 public:
  // REQUIRES: the dataset outlives the loader.
  Loader(const Dataset& dataset, const BatchPlan& plan, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next microbatch of this rank, in the order of steps and microbatches; empty after the last.
  std::optional<HostBatch> next();

  // Time that `next` has spent waiting, since construction.
  double waited_seconds() const { return waited_seconds_; }
  // Buffers made so far; stays the same once the loader is running.
  int64_t num_buffers() const;

 private:
  class Buffers;
  void run();
  HostBatch read(int64_t step, int64_t microbatch);

  const Dataset& dataset_;
  const BatchPlan plan_;
  const LoaderOptions options_;
  std::shared_ptr<Buffers> buffers_;
  BoundedQueue<HostBatch> queue_;
  double waited_seconds_ = 0;
  std::thread thread_;
};

}  // namespace trireme
