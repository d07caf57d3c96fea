// A group of ranks that exchange tensors. One interface, several backends: `self` (a group of one),
// `thread` (ranks are threads of one process), `mpi` (processes, host memory; device memory by copies), `nccl` (GPUs).
//
// Order. Every rank of a group makes the same collective calls in the same order with the same sizes,
// dtypes and ops; a difference is an error where a backend can see it. The calls on one communicator run
// one after the other in the order in which the rank made them: a call starts when the previous one on the
// *same* communicator is done. Different communicators don't wait for each other.
//
// Asynchrony. A call returns at once with a `Work`. Inputs are read after the work that is already queued on
// `stream`; outputs may be used by what is queued on a stream after `wait(stream)`. Until then the caller
// neither writes inputs nor reads outputs. The call keeps its tensors alive. A Work may be dropped: the
// call still runs.
//
// Sums. `self`, `thread` and `mpi` add in rank order, in the dtype of the tensor (bf16: in fp32, rounded
// once at the end), whatever the size of the message: the result has the same bits on all ranks and on all
// three backends. `nccl` adds in an order of its own (nccl_communicator.h). Integer sums wrap. `max` and `min` give NaN
// when any input is NaN.
//
// Point-to-point. A send is done only when the peer has posted the matching receive; nothing is buffered.
// Each ordered pair of ranks of a communicator is one FIFO. Since calls run one after the other, transfers
// that need each other's peers to proceed (both sides send first) belong into one `send_recv`.
//
// Thread safety: one thread at a time makes calls on the communicators of a rank; any thread may wait.
// Errors: tensors, counts and ranks that contradict each other on this rank are a BugError at the call.
// What only shows when the ranks meet is thrown by `wait`: BugError for calls that don't fit each other,
// PeerError for a rank that failed. After a failure every later call on the communicator fails too.
#pragma once

#include <cstdint>
#include <map>
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
  // Work queued on `stream` from now on sees the result. For host tensors the calling thread blocks until
  // the call is done. Throws what the call failed with, every time it is asked.
  virtual void wait(Stream& stream) = 0;
  // Whether the result is there (or the call failed), without waiting.
  virtual bool done() = 0;
};
using WorkHandle = std::shared_ptr<Work>;

// One transfer of a grouped point-to-point call. Both sides name the same number of bytes; zero is allowed,
// and so is the rank itself as peer: its sends and receives are matched in order and copied.
struct Transfer {
  enum class Kind : uint8_t { send, recv };
  Kind kind = Kind::send;
  Tensor tensor;
  int peer = 0;  // rank in the group

  static Transfer send(Tensor tensor, int peer) { return {Kind::send, std::move(tensor), peer}; }
  static Transfer recv(Tensor tensor, int peer) { return {Kind::recv, std::move(tensor), peer}; }
};

// What a backend gets to do, checked and recorded. `op` is CommOp::send for a grouped point-to-point call.
struct CommCall {
  CommOp op = CommOp::barrier;
  ReduceOp reduce = ReduceOp::sum;
  Tensor input = {};  // all_reduce and broadcast: the same tensor as output
  Tensor output = {};
  int root = 0;
  std::vector<int64_t> send_counts = {};  // all_to_all(_v): elements for and from each rank, packed in rank order
  std::vector<int64_t> recv_counts = {};
  std::vector<Transfer> transfers = {};
  int64_t sequence = 0;                  // of collectives
  std::vector<int64_t> record_ids = {};  // in the flight recorder; one, or one for each transfer

  std::string str() const;  // "all_reduce sum of f32[1024], call 7"
  Device device() const;    // of its tensors; of several, the first that isn't the CPU
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
  // Rank r ends with the reduction of everybody's r-th block. input: size() blocks of output.numel()
  // elements. `output` may be this rank's own block of `input`, else they don't overlap.
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
  // All transfers start together; done when all are. Several with one peer are matched in the order of the
  // list. Only this rank and the peers named take part.
  WorkHandle send_recv(std::vector<Transfer> transfers, Stream& stream);
  // Done when every rank has made the call.
  WorkHandle barrier(Stream& stream);

  // A new communicator over some ranks of this one; blocks the caller. Collective: every rank of *this*
  // calls it at the same point of its sequence, with the list of its own group (the caller among them; the
  // list gives the order of the new ranks) or with an empty list, which returns nullptr. The groups of one
  // call are disjoint. A group of one becomes a `self` communicator. The parent may be destroyed first.
  // `name`, for the flight recorder, is equal on all members and different from the names of other groups that they are in.
  std::unique_ptr<Communicator> split(std::span<const int> ranks, const std::string& name);

 protected:
  // Queues the call behind this communicator's earlier ones. The backend tells the recorder when each of
  // `record_ids` starts and finishes.
  virtual WorkHandle submit(CommCall call, Stream& stream) = 0;
  virtual std::unique_ptr<Communicator> split_group(std::span<const int> ranks, const std::string& name) = 0;

 private:
  WorkHandle submit_collective(CommCall call, int64_t bytes, int peer, Stream& stream);

  const int rank_;
  const int size_;
  const std::string name_;
  FlightRecorder& recorder_;
  int64_t num_collectives_ = 0;
  std::map<int, int64_t> num_sends_;  // by peer
  std::map<int, int64_t> num_recvs_;
};

// A group of one: every call is the identity and done at once.
std::unique_ptr<Communicator> make_self_communicator(const std::string& name, FlightRecorder& recorder);

}  // namespace trireme
