// What a clique knows of its ranks, and of what they are at. Included by the clique's own files.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "tests/emulator/nccl_clique.h"

namespace emulator {

// A collective, from its first rank's arrival to its last one's leaving.
struct Clique::Meeting {
  std::vector<NcclOp> ops;
  std::vector<int> here;  // ranks, in order of arrival
  bool running = false;
  bool done = false;
  int num_left = 0;
  Edge arrived;
  Edge finished;
};

// One side of a transfer.
struct Clique::Post {
  Post(int of, const NcclOp& what) : rank(of), op(what) {}
  int rank;
  NcclOp op;
  bool copying = false;
  bool done = false;
  Edge posted;
  Edge finished;
};

struct Clique::Member {
  int rank = 0;
  bool joined = false;
  int device = -1;
  bool aborted = false;
  ncclResult_t failure = ncclSuccess;
  std::string failure_text;
  int64_t num_collectives = 0;
  int num_outstanding = 0;
  // The launch that runs, and what it waits for.
  bool in_launch = false;
  bool waits = false;
  Meeting* meeting = nullptr;
  std::deque<Post>* posts = nullptr;
};

}  // namespace emulator
