// Where the ranks of one emulated NCCL communicator meet: matching, waiting, and the discovery that waiting is in vain.
//
// Each rank's launches run on its stream's thread. A launch posts all that is in it, then stays until everything has
// found its counterpart. Compiled without the sanitizers' instrumentation (see stream.h); what the ranks do order among
// each other is said with Edges.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulator/hidden.h"
#include "tests/emulator/race.h"
#include "tests/emulator/stream.h"

namespace emulator {

struct NcclOp {
  enum class Kind { all_reduce, reduce_scatter, all_gather, broadcast, send, recv };
  Kind kind = Kind::all_reduce;
  const void* send = nullptr;
  void* recv = nullptr;
  size_t count = 0;
  ncclDataType_t type = ncclFloat32;
  ncclRedOp_t op = ncclSum;
  int peer = 0;  // or root

  bool is_transfer() const { return kind == Kind::send || kind == Kind::recv; }
  std::string str() const;  // "ncclAllReduce of 10 float32, sum"
};

size_t nccl_type_bytes(ncclDataType_t type);  // 0 for types that aren't there

// What one rank's stream does in one go: one call, or one group of calls.
using NcclLaunch = std::vector<NcclOp>;

// Does a collective: ops[r] is rank r's. Instrumented.
void run_collective(const std::vector<NcclOp>& ops);
void run_transfer(const NcclOp& send, const NcclOp& recv);

// Holds a mutex. What its thread does meanwhile is out of ThreadSanitizer's sight, but for what a race::Seen covers.
class NcclLock {
 public:
  explicit NcclLock(HiddenMutex& mutex) : lock_(mutex) {}

 private:
  race::Ignored ignored_;
  HiddenLock lock_;
};

class Clique {
 public:
  Clique(int size, std::string name);

  int size() const { return size_; }

  // A rank is there, with its device. Empty, or what is wrong with that.
  std::string join(int rank, int device);
  bool complete();
  // Why no launch will succeed any more, for this rank: ncclSuccess while all is well.
  std::pair<ncclResult_t, std::string> failure(int rank);

  // On a stream's thread. Returns when the launch is over, or ended by a failure.
  void run(int rank, const NcclLaunch& launch);

  // `rank` ends its launches, those to come too. `seen`: the others end theirs.
  void abort(int rank, bool seen);
  void fail(ncclResult_t result, const std::string& text);
  void fail_rank(int rank, ncclResult_t result, const std::string& text);

  // Launches of this rank that are on a stream, and not over.
  void add_outstanding(int rank, int count);
  int outstanding(int rank);

 private:
  struct Meeting;
  struct Post;
  struct Member;

  void meet(Member& member, const NcclOp& op);
  void post(int rank, const NcclOp& op, std::deque<Post>& mine);
  template <class Done>
  void wait(Member& member, Done done);
  bool over(const Member& member) const;
  void fail_locked(ncclResult_t result, const std::string& text);
  void find_circle(int from);
  static void give_up(int64_t seen);
  std::string waiting() const;  // each rank that waits, and for whom; empty when none does
  std::vector<int> needs(const Member& member) const;
  std::string describe(const Member& member) const;

  const int size_;
  const std::string name_;
  HiddenMutex mutex_;
  HiddenCondition changed_;
  std::vector<std::unique_ptr<Member>> members_;
  std::map<int64_t, std::unique_ptr<Meeting>> meetings_;            // by number of the collective
  std::map<std::pair<int, int>, std::deque<Post*>> sends_, recvs_;  // unmatched, by (from, to)
  ncclResult_t failure_ = ncclSuccess;
  std::string failure_text_;
};

// All cliques of the process; they live as long as it does.
std::vector<Clique*> all_cliques();
Clique* make_clique(int size, const std::string& name);

// What happens anywhere is counted: launches begin and end, operations of streams end. A launch that sees nothing happen
// for nccl_patience() seconds is stuck.
void count_nccl_progress();
int64_t all_progress();
double nccl_patience();

}  // namespace emulator
