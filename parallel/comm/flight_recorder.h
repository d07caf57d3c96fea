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
#include <map>
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

  bool is_finished() const { return finished != kNotYet; }
};

// What one rank can say about its calls.
struct RankRecords {
  int rank = 0;
  std::vector<FlightRecord> records = {};  // oldest first
  // By name, the groups that the rank is in: their ranks in the world, in the order of the group. Groups of one name with
  // other ranks are other groups. A group may be left out; then its name is the only one of its kind.
  std::map<std::string, std::vector<int>> groups = {};
};

class FlightRecorder {
 public:
  static constexpr double kNow = -1;

  explicit FlightRecorder(int rank, int64_t capacity = 4096);
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  int rank() const { return rank_; }  // in the world
  void set_step(int64_t step);
  // Tells which ranks of the world a group consists of, in the order of the group.
  void set_members(const std::string& group, std::vector<int> ranks);

  // Adds a record (`id`, `step` and `called` are filled in here) and returns its id.
  int64_t add(FlightRecord record);
  // `seconds`: when it was, for backends that see it later; by default now.
  void mark_started(int64_t id, double seconds = kNow);
  void mark_finished(int64_t id, double seconds = kNow);

  // What is still in the ring, oldest first.
  std::vector<FlightRecord> records() const;
  // What a report needs: of `records` those that are unfinished, the last `num_recent`, and of each group the last collective
  // and the last transfer with each peer, each way.
  RankRecords summary(int64_t num_recent = 64) const;
  // Seconds since the call that has been unfinished for longest; 0 without one.
  double waiting_seconds() const;
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
  std::map<std::string, std::vector<int>> groups_;
  int64_t next_id_ = 0;
  std::vector<FlightRecord> ring_;  // record `id` lies at id % capacity
};

// Says for every group with an unfinished call which ranks have not made it, by comparing the sequence
// numbers of its members: a line for each. Empty when nothing is unfinished.
std::string late_rank_report(const std::vector<RankRecords>& ranks);

// Now, in the recorder's clock.
double monotonic_seconds();

}  // namespace trireme
