// A group of ranks that exchange tensors. One interface, several backends: `self` (a group of one),
// `thread` (ranks are threads of one process), `mpi` (processes, host memory), `nccl` (GPUs).
//
// Order. Every rank of a group makes the same collective calls in the same order with the same sizes,
// dtypes and ops; a difference is an error where a backend can see it. The calls on one communicator run
// one after the other, in the order in which they were made: a call starts when the rank's previous call on the *same*
// communicator is done. Calls on different communicators are independent of each other.
//
// Asynchrony. A call returns at once with a `Work`. Inputs are read after the work that is already queued on `stream`;
// outputs may be touched by work that is queued on a stream after `wait(stream)`. Until then the caller
// neither writes inputs nor reads outputs. Tensors are kept alive by the call. A Work may be dropped; the call still
// runs, and the next call on the communicator reports its failure.
//
// Sums. `self`, `thread` and `mpi` add in rank order, in the dtype of the tensor (bf16: in fp32, rounded once at
// the end), whatever the size of the message: results are the same bits on all ranks and on all three. Integer
// sums wrap. `max` and `min` give NaN when any input is NaN.
//
// Point-to-point. A send is done only when the peer has posted the matching receive (nothing is buffered).
// Each ordered pair of ranks of a communicator is one FIFO. Since calls run one after the other, transfers that must be able to
// proceed together (a send and a receive that wait for each other's peers) belong into one `send_recv`.
//
// Thread safety: one thread at a time uses the communicators of a rank; `Work` may be waited for by any thread.
// Errors: sizes, dtypes or devices that don't fit this rank's own arguments are BugError at the call; what
// only shows when the ranks meet (other sizes on a peer, a rank that failed) is thrown by `wait`.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device/device.h"
#include "core/tensor/tensor.h"
#include "parallel/comm/flight_recorder.h"

namespace trireme {

enum class ReduceOp : uint8_t { sum, max, min };

// The handle of a call under way.
class Work {
 public:
  virtual ~Work() = default;
  // Work queued on `stream` from now on sees the result. For host tensors the calling thread blocks until the
  // call is done. Throws what the call failed with, every time. May be called again.
  virtual void wait(Stream& stream) = 0;
  // Whether the result is there (or the call failed), without waiting.
  virtual bool done() = 0;
};
using WorkHandle = std::shared_ptr<Work>;

// One transfer of a grouped point-to-point call. Both sides name the same number of bytes; zero is allowed.
struct Transfer {
  enum class Kind : uint8_t { send, recv };
  Kind kind = Kind::send;
  Tensor tensor;
  int peer = 0;  // rank in the group; the rank itself is allowed: its sends and receives are matched in order and copied

  static Transfer send(Tensor tensor, int peer) { return {Kind::send, std::move(tensor), peer}; }
  static Transfer recv(Tensor tensor, int peer) { return {Kind::recv, std::move(tensor), peer}; }
};

// What a backend gets to do: checked, recorded, in this rank's order. CommOp::send stands for a grouped call.
struct CommCall {
  CommOp op = CommOp::barrier;
  ReduceOp reduce = ReduceOp::sum;
  Tensor input;   // all_reduce and broadcast: the same tensor as output
  Tensor output;
  int root = 0;
  std::vector<int64_t> send_counts;  // all_to_all(_v): elements for and from each rank, packed in rank order
  std::vector<int64_t> recv_counts;
  std::vector<Transfer> transfers;
  int64_t sequence = 0;
  std::vector<int64_t> record_ids;  // in the flight recorder

  std::string str() const;  // "all_reduce sum f32[1024] (call 7)"
};

class Communicator {
 public:
  Communicator(int rank, int size, std::string name, FlightRecorder& recorder)
      : rank_(rank), size_(size), name_(std::move(name)), recorder_(recorder) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }  // of the group, for messages and the flight recorder
  FlightRecorder& recorder() const { return recorder_; }
  virtual std::string backend() const = 0;  // "self", "thread", "mpi", "nccl"

  // In place: every rank ends with the reduction over all ranks.
  WorkHandle all_reduce(const Tensor& tensor, ReduceOp op, Stream& stream);
  // Rank r ends with the reduction of everybody's r-th block. input: size() blocks of output.numel() elements.
  // `output` may be this rank's own block of `input`, else they don't overlap; the rest of `input` stays as it is.
  WorkHandle reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, Stream& stream);
  // Everybody ends with all inputs in rank order. output: size() blocks of input.numel() elements.
  // `input` may be this rank's own block of `output`, else they don't overlap.
  WorkHandle all_gather(const Tensor& input, const Tensor& output, Stream& stream);
  // Block r of the input goes to rank r; block r of the output comes from rank r. No overlap.
  WorkHandle all_to_all(const Tensor& input, const Tensor& output, Stream& stream);
  // As all_to_all with blocks of `send_counts[r]` and `recv_counts[r]` elements, packed in rank order at the
  // front of the tensors. Every rank takes part, also with nothing to send or to receive.
  WorkHandle all_to_all_v(const Tensor& input, std::span<const int64_t> send_counts, const Tensor& output,
                          std::span<const int64_t> recv_counts, Stream& stream);
  // Everybody ends with the root's elements.
  WorkHandle broadcast(const Tensor& tensor, int root, Stream& stream);
  // All transfers start together; done when all are. Several transfers with one peer are matched in the order of the list.
  // Only the ranks named as peers take part.
  WorkHandle send_recv(std::vector<Transfer> transfers, Stream& stream);
  // Done when every rank has made the call.
  WorkHandle barrier(Stream& stream);

  // A new communicator over some ranks of this one; blocks the caller. Collective: every rank of *this* calls it at the same point
  // of its sequence, with the list of its own group (the caller among them; the new ranks are numbered in the order of the
  // list) or with an empty list, which returns nullptr. Groups of one call are disjoint.
  // A group of one is a `self` communicator. The parent may be destroyed first.
  std::unique_ptr<Communicator> split(std::span<const int> ranks, const std::string& name);

 protected:
  // Queues the call behind this communicator's earlier ones. The backend tells the recorder when each of
  // `record_ids` starts and finishes.
  virtual WorkHandle submit(CommCall call, Stream& stream) = 0;
  virtual std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) = 0;

 private:
  WorkHandle record_and_submit(CommCall call, int64_t bytes, int peer, Stream& stream);

  const int rank_;
  const int size_;
  const std::string name_;
  FlightRecorder& recorder_;
  int64_t next_sequence_ = 0;
};

// A group of one: every call is the identity and done at once.
std::unique_ptr<Communicator> make_self_communicator(const std::string& name, FlightRecorder& recorder);

}  // namespace trireme
