// A pipeline schedule is data: for each rank of the pipeline a list of actions. It is made (make_schedule.h), proved
// (checker.h), timed and drawn (timeline.h) and run (executor.h); none of these knows where it came from.
//
// The model is cut into chunks 0 … num_chunks−1, a step into microbatches 0 … num_microbatches−1. A rank holds one or
// more chunks. Hidden states go from a chunk to the next one, their gradients back. When both chunks are on one rank
// that is a hand-over without an action; else a send on one rank and a receive on the other.
//
// Transfers are asynchronous and unbuffered: a send is done only when its receive has been posted. All transfers
// from one rank to another, activations and gradients alike, are one FIFO: the k-th send meets the k-th receive. A
// computation waits for the receive that it needs and never for a send; at the end of the program everything is waited
// for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

enum class ActionKind : uint8_t {
  forward,
  backward,         // both halves
  backward_input,   // the first half: makes the gradient that the chunk before waits for
  backward_weight,  // the second half, any time later; of a chunk in microbatch order
  send_activation,  // what `chunk` gave, to the next chunk's rank
  recv_activation,  // what `chunk` needs, from the rank of the chunk before
  send_gradient,    // of the input of `chunk`, to the rank of the chunk before
  recv_gradient,    // of the output of `chunk`, from the next chunk's rank
};
inline constexpr int kNumActionKinds = 8;

constexpr bool is_send(ActionKind kind) {
  return kind == ActionKind::send_activation || kind == ActionKind::send_gradient;
}
constexpr bool is_recv(ActionKind kind) {
  return kind == ActionKind::recv_activation || kind == ActionKind::recv_gradient;
}
constexpr bool is_compute(ActionKind kind) { return !is_send(kind) && !is_recv(kind); }

const char* name_of(ActionKind kind);  // "backward_input"

struct Action {
  ActionKind kind = ActionKind::forward;
  int chunk = 0;  // always one of the rank that acts
  int microbatch = 0;
  int peer = -1;  // of transfers: the other rank of the pipeline

  bool operator==(const Action&) const = default;
  std::string str() const;  // "forward(chunk 1, microbatch 3)", "send_gradient(chunk 1, microbatch 3, to 0)"
};

struct Schedule {
  std::string name;  // for people: "1f1b"
  int num_ranks = 1;
  int num_chunks = 1;
  int num_microbatches = 1;
  bool forward_only = false;  // an evaluation: no backward, nothing is kept
  std::vector<int> rank_of_chunk;
  std::vector<std::vector<Action>> programs;  // by rank

  int last_chunk() const { return num_chunks - 1; }
  int rank_of(int chunk) const { return rank_of_chunk[static_cast<size_t>(chunk)]; }
  const std::vector<Action>& program(int rank) const { return programs[static_cast<size_t>(rank)]; }
  std::vector<int> chunks_of(int rank) const;  // ascending
};

// Stashes that the rank keeps at the same time at most, one for each forward of a chunk until its backward_weight.
int peak_stashes(const Schedule& schedule, int rank);

}  // namespace trireme
