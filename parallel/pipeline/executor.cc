#include "parallel/pipeline/executor.h"

#include <deque>
#include <map>
#include <utility>

#include "core/error.h"

namespace trireme {

namespace {

// A chunk and a microbatch.
using Place = std::pair<int, int>;

// What a computation waits for: here already (no handle), or under way.
struct Incoming {
  Tensor tensor;
  WorkHandle handle;
};

class ProgramRun {
 public:
  ProgramRun(const Schedule& schedule, int rank, PipelineWork& work, const PipelineChannels& channels, Stream& stream,
             ProgramTimes* times)
      : schedule_(schedule), rank_(rank), work_(work), channels_(channels), stream_(stream), times_(times) {}

  void run() {
    if (times_) times_->start(stream_);
    for (const Action& action : schedule_.program(rank_)) {
      if (action.chunk < 0 || action.chunk >= schedule_.num_chunks || schedule_.rank_of(action.chunk) != rank_) {
        fail(action, "the chunk isn't of this rank");
      }
      if (action.microbatch < 0 || action.microbatch >= schedule_.num_microbatches) {
        fail(action, "there is no such microbatch");
      }
      if (is_send(action.kind)) {
        send(action);
      } else if (is_recv(action.kind)) {
        recv(action);
      } else {
        compute(action);
      }
    }
    check_end();
    for (const WorkHandle& handle : sends_) handle->wait(stream_);
  }

 private:
  enum class Progress : uint8_t { forward, backward_input, finished };

  [[noreturn]] void fail(const Action& action, const std::string& what) const {
    throw BugError(
        {.what = "illegal pipeline program: " + what, .where = "rank " + std::to_string(rank_) + ", " + action.str()});
  }

  bool is_here(int chunk) const { return schedule_.rank_of(chunk) == rank_; }
  bool is_last(int chunk) const { return chunk == schedule_.last_chunk(); }

  void compute(const Action& action) {
    const auto [kind, chunk, j, peer] = action;
    if (kind == ActionKind::backward_weight) {
      advance(action, Progress::backward_input, Progress::finished);
      in_weight_order(action);
      timed(action, [&] { work_.backward_weight(stream_, chunk, j); });
    } else if (kind == ActionKind::forward) {
      if (!progress_.emplace(Place{chunk, j}, Progress::forward).second) fail(action, "it ran before");
      const Tensor x = chunk > 0 ? take(inputs_, action) : Tensor();
      Tensor y;
      timed(action, [&] { y = work_.forward(stream_, chunk, j, x); });
      if (schedule_.forward_only) progress_[{chunk, j}] = Progress::finished;
      if (!is_last(chunk)) hand_over(action, std::move(y), chunk + 1, inputs_, outputs_);
    } else {
      const bool both = kind == ActionKind::backward;
      advance(action, Progress::forward, both ? Progress::finished : Progress::backward_input);
      if (both) in_weight_order(action);
      const Tensor dy = is_last(chunk) ? Tensor() : take(gradients_, action);
      Tensor dx;
      timed(action,
            [&] { dx = both ? work_.backward(stream_, chunk, j, dy) : work_.backward_input(stream_, chunk, j, dy); });
      if (chunk > 0) hand_over(action, std::move(dx), chunk - 1, gradients_, input_gradients_);
    }
  }

  template <class Body>
  void timed(const Action& action, const Body& body) {
    if (!times_) return body();
    Interval interval;
    interval.begin = stream_.record_time();
    body();
    interval.end = stream_.record_time();
    times_->add(action, std::move(interval));
  }

  void advance(const Action& action, Progress from, Progress to) {
    const auto found = progress_.find({action.chunk, action.microbatch});
    if (found == progress_.end()) fail(action, "its forward has not run");
    if (found->second != from) fail(action, found->second > from ? "it ran before" : "backward_input has not run");
    found->second = to;
  }

  void in_weight_order(const Action& action) {
    const int next = next_weight_[action.chunk]++;
    if (action.microbatch != next) {
      fail(action, "the chunk's next weight gradient is of microbatch " + std::to_string(next));
    }
  }

  // What the stream needs for this computation; it waits for it.
  Tensor take(std::map<Place, Incoming>& waiting, const Action& action) {
    auto node = waiting.extract({action.chunk, action.microbatch});
    if (node.empty()) fail(action, "what it needs was neither received nor made");
    Incoming& incoming = node.mapped();
    if (incoming.handle) incoming.handle->wait(stream_);
    return std::move(incoming.tensor);
  }

  // To the neighbour chunk here, or to be sent.
  void hand_over(const Action& action, Tensor tensor, int to_chunk, std::map<Place, Incoming>& waiting,
                 std::map<Place, Tensor>& outgoing) {
    TRIREME_CHECK(tensor.defined(), "a chunk in the middle gave no hidden states");
    const int j = action.microbatch;
    if (!is_here(to_chunk)) {
      outgoing.emplace(Place{action.chunk, j}, std::move(tensor));
    } else if (!waiting.emplace(Place{to_chunk, j}, Incoming{std::move(tensor), nullptr}).second) {
      fail(action, "the next chunk has this input already");
    }
  }

  void send(const Action& action) {
    const bool gradient = action.kind == ActionKind::send_gradient;
    check_peer(action, gradient ? action.chunk - 1 : action.chunk + 1);
    auto node = (gradient ? input_gradients_ : outputs_).extract({action.chunk, action.microbatch});
    if (node.empty()) fail(action, "what it sends has not been made");
    // Handles of old sends are let go as soon as that makes nobody wait: with them goes memory.
    while (!sends_.empty() && sends_.front()->done()) {
      sends_.front()->wait(stream_);
      sends_.pop_front();
    }
    sends_.push_back(channels_.to(action.peer).send_recv({Transfer::send(std::move(node.mapped()), 1)}, stream_));
  }

  void recv(const Action& action) {
    const bool gradient = action.kind == ActionKind::recv_gradient;
    check_peer(action, gradient ? action.chunk + 1 : action.chunk - 1);
    auto& waiting = gradient ? gradients_ : inputs_;
    const Place place{action.chunk, action.microbatch};
    if (waiting.contains(place)) fail(action, "it was received before");
    // The gradient of what enters the next chunk has the shape of that.
    Incoming incoming;
    incoming.tensor = work_.empty_hidden(stream_, gradient ? action.chunk + 1 : action.chunk, action.microbatch);
    incoming.handle = channels_.from(action.peer).send_recv({Transfer::recv(incoming.tensor, 0)}, stream_);
    waiting.emplace(place, std::move(incoming));
  }

  void check_peer(const Action& action, int other_chunk) const {
    if (other_chunk < 0 || other_chunk >= schedule_.num_chunks) fail(action, "there is no chunk to exchange it with");
    if (is_here(other_chunk)) fail(action, "both chunks are of this rank");
    if (schedule_.rank_of(other_chunk) != action.peer) fail(action, "the other chunk isn't of that rank");
  }

  void check_end() const {
    const auto leftover = [&](const std::string& what) {
      throw BugError(
          {.what = "illegal pipeline program: at its end " + what, .where = "rank " + std::to_string(rank_)});
    };
    for (const int chunk : schedule_.chunks_of(rank_)) {
      for (int j = 0; j < schedule_.num_microbatches; ++j) {
        const auto found = progress_.find({chunk, j});
        if (found == progress_.end() || found->second != Progress::finished) {
          leftover("chunk " + std::to_string(chunk) + ", microbatch " + std::to_string(j) + " isn't finished");
        }
      }
    }
    if (!inputs_.empty() || !gradients_.empty()) leftover("a received tensor was not used");
    if (!outputs_.empty() || !input_gradients_.empty()) leftover("a result was not sent");
  }

  const Schedule& schedule_;
  const int rank_;
  PipelineWork& work_;
  const PipelineChannels& channels_;
  Stream& stream_;
  ProgramTimes* times_;

  std::map<Place, Progress> progress_;
  std::map<int, int> next_weight_;  // by chunk: the microbatch
  // By the chunk of this rank that needs them.
  std::map<Place, Incoming> inputs_, gradients_;
  // By the chunk of this rank that made them.
  std::map<Place, Tensor> outputs_, input_gradients_;
  std::deque<WorkHandle> sends_;  // under way, oldest first
};

}  // namespace

void ProgramTimes::start(Stream& stream) {
  entries_.clear();
  start_ = stream.record_time();
}

void ProgramTimes::add(const Action& action, Interval interval) { entries_.push_back({action, std::move(interval)}); }

std::vector<TimedAction> ProgramTimes::read() const {
  std::vector<TimedAction> out;
  for (const Entry& entry : entries_) {
    out.push_back(
        {entry.action, entry.interval.begin->seconds_since(*start_), entry.interval.end->seconds_since(*start_)});
  }
  return out;
}

void run_program(const Schedule& schedule, int rank, PipelineWork& work, const PipelineChannels& channels,
                 Stream& stream, ProgramTimes* times) {
  ProgramRun(schedule, rank, work, channels, stream, times).run();
}

}  // namespace trireme
