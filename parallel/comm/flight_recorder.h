// The flight recorder: the last calls that one rank made on all of its communicators, in a ring buffer.
//
// When a run hangs it names the rank that is late (`late_rank_report`); tests read it to see that the
// expected traffic happened, and only that. One recorder belongs to one rank and is shared by all of the
// rank's communicators, which it must outlive.
// Thread safety: all calls may come from any thread.
// Times are seconds of a monotonic clock that all ranks of one machine share.
#pragma once

#include <cstdint>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

namespace trireme {

// What a communicator was asked to do. A grouped point-to-point call leaves one record for each send and
// each receive in it.
enum class CommOp : uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  all_to_all,
  all_to_all_v,
  broadcast,
  barrier,
  send,
  recv,
};
std::string comm_op_name(CommOp op);

struct FlightRecord {
  static constexpr double kNotYet = std::numeric_limits<double>::infinity();

  int64_t id = -1;   // counts the records of this recorder
  int64_t step = 0;  // of training, as last told by set_step
  // Counts from 0 the collectives of the group, or the transfers from one rank to another: the same
  // operation has the same number on all ranks that take part.
  int64_t sequence = 0;
  CommOp op = CommOp::barrier;
  std::string group;   // name of the communicator
  int group_rank = 0;  // this rank's place in the group
  int group_size = 1;
  int peer = -1;             // group rank of the other side (send, recv) or of the root (broadcast), else -1
  int64_t bytes = 0;         // of this rank's larger buffer: all_gather counts the output, reduce_scatter the input
  double called = 0;         // when the rank asked for it
  double started = kNotYet;  // when the backend took it up
  double finished = kNotYet;
};

class FlightRecorder {
 public:
  static constexpr double kNow = -1;

  explicit FlightRecorder(int rank, int64_t capacity = 4096);
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  int rank() const { return rank_; }  // in the world
  void set_step(int64_t step);

  // Adds a record (`id`, `step` and `called` are filled in here) and returns its id.
  int64_t add(FlightRecord record);
  // `seconds`: when it was, for backends that see it later; by default now.
  void mark_started(int64_t id, double seconds = kNow);
  void mark_finished(int64_t id, double seconds = kNow);

  // What is still in the ring, oldest first.
  std::vector<FlightRecord> records() const;
  // Records ever made; more than the ring's capacity means that some are lost.
  int64_t num_records() const;
  // Drops everything; tests call it between phases.
  void clear();

  // One line per record that is unfinished, then the last `num_finished` finished ones.
  std::string dump(int64_t num_finished = 20) const;

 private:
  FlightRecord* find(int64_t id);

  const int rank_;
  const int64_t capacity_;
  mutable std::mutex mutex_;
  int64_t step_ = 0;
  int64_t next_id_ = 0;
  std::vector<FlightRecord> ring_;  // record `id` lies at id % capacity
};

// The records of one rank, as gathered for a report.
struct RankRecords {
  int rank = 0;
  std::vector<FlightRecord> records;
};

// Says for every group with an unfinished call which ranks have not made it, by comparing the sequence
// numbers of its members. Empty when nothing is unfinished. REQUIRES: different groups have different names.
std::string late_rank_report(const std::vector<RankRecords>& ranks);

// Now, in the recorder's clock.
double monotonic_seconds();

}  // namespace trireme
