// A model for tests of the pipeline that is nothing but whole numbers, in which every mistake shows: what a chunk gives
// depends on what it gets, the chunk and the microbatch, and a weight's gradient on the order of its microbatches.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/pipeline/executor.h"
#include "tests/parallel/comm_conformance.h"

namespace trireme {

// One rank's part of it. Throws std::logic_error when it is called as no executor may.
class ToyWork final : public PipelineWork {
 public:
  explicit ToyWork(int num_chunks) : num_chunks_(num_chunks) {}

  // Seconds that each forward, backward_input and backward_weight sleeps.
  double sleep_seconds = 0;
  bool evaluation = false;
  std::map<int, uint64_t> gradients;                // by chunk
  std::map<std::pair<int, int>, uint64_t> results;  // of forward of the last chunk

  Tensor empty_hidden(Stream& stream, int chunk, int) override {
    if (chunk == 0) throw std::logic_error("nothing enters the first chunk");
    Tensor tensor = Tensor::empty(stream, {1}, DType::i64);
    *tensor.data<int64_t>() = -1;
    return tensor;
  }

  Tensor forward(Stream& stream, int chunk, int microbatch, const Tensor& x) override {
    const uint64_t in = read(x, chunk > 0);
    if (!evaluation && !stashes_.emplace(std::pair{chunk, microbatch}, in).second) {
      throw std::logic_error("a second forward");
    }
    const uint64_t out = forward_value(chunk, microbatch, in);
    sleep(1);
    if (chunk < num_chunks_ - 1) return write(stream, out);
    results[{chunk, microbatch}] = out;
    return {};
  }

  Tensor backward(Stream& stream, int chunk, int microbatch, const Tensor& dy) override {
    Tensor dx = backward_input(stream, chunk, microbatch, dy);
    backward_weight(stream, chunk, microbatch);
    return dx;
  }

  Tensor backward_input(Stream& stream, int chunk, int microbatch, const Tensor& dy) override {
    const auto stash = stashes_.extract({chunk, microbatch});
    if (stash.empty()) throw std::logic_error("backward without a stash");
    const uint64_t gradient = chunk < num_chunks_ - 1 ? read(dy, true) : read(dy, false) + 1;
    weight_stashes_[{chunk, microbatch}] = weight_value(stash.mapped(), gradient);
    sleep(1);
    if (chunk == 0) return {};
    return write(stream, input_gradient(chunk, stash.mapped(), gradient));
  }

  void backward_weight(Stream&, int chunk, int microbatch) override {
    const auto stash = weight_stashes_.extract({chunk, microbatch});
    if (stash.empty()) throw std::logic_error("backward_weight without a stash");
    gradients[chunk] = add(gradients[chunk], stash.mapped());
    sleep(1);
  }

  // All chunks' gradients, without a pipeline.
  static std::map<int, uint64_t> reference(int num_chunks, int num_microbatches) {
    std::map<int, uint64_t> sums;
    for (int j = 0; j < num_microbatches; ++j) {
      std::vector<uint64_t> in{0};
      for (int c = 0; c < num_chunks; ++c) in.push_back(forward_value(c, j, in.back()));
      uint64_t gradient = 1;
      for (int c = num_chunks - 1; c >= 0; --c) {
        const uint64_t x = in[static_cast<size_t>(c)];
        sums[c] = add(sums[c], weight_value(x, gradient));
        gradient = input_gradient(c, x, gradient);
      }
    }
    return sums;
  }
  static uint64_t reference_result(int num_chunks, int microbatch) {
    uint64_t x = 0;
    for (int c = 0; c < num_chunks; ++c) x = forward_value(c, microbatch, x);
    return x;
  }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
    return x ^ (x >> 29);
  }
  static uint64_t forward_value(int chunk, int microbatch, uint64_t x) {
    return mix(x + 1000003u * static_cast<uint64_t>(chunk + 1) + static_cast<uint64_t>(microbatch + 1));
  }
  static uint64_t input_gradient(int chunk, uint64_t x, uint64_t dy) {
    return mix(dy * 3 + x + static_cast<uint64_t>(chunk));
  }
  static uint64_t weight_value(uint64_t x, uint64_t dy) { return mix(x ^ mix(dy)); }
  static uint64_t add(uint64_t sum, uint64_t value) { return sum * 31 + value; }  // order matters

  static uint64_t read(const Tensor& tensor, bool wanted) {
    if (tensor.defined() != wanted) throw std::logic_error("a tensor too many or too few");
    return wanted ? static_cast<uint64_t>(*tensor.data<int64_t>()) : 0;
  }
  static Tensor write(Stream& stream, uint64_t value) {
    Tensor tensor = Tensor::empty(stream, {1}, DType::i64);
    *tensor.data<int64_t>() = static_cast<int64_t>(value);
    return tensor;
  }
  void sleep(int times) const {
    if (sleep_seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(sleep_seconds * times));
  }

  int num_chunks_;
  std::map<std::pair<int, int>, uint64_t> stashes_;         // the input of forward
  std::map<std::pair<int, int>, uint64_t> weight_stashes_;  // the weight's gradient
};

// The ways between all ranks of a group, whether a legal schedule uses them or not.
class ToyChannels {
 public:
  explicit ToyChannels(Communicator& ranks) {
    for (int from = 0; from < ranks.size(); ++from) {
      for (int to = 0; to < ranks.size(); ++to) {
        if (from == to) continue;
        const bool member = ranks.rank() == from || ranks.rank() == to;
        auto way = ranks.split(member ? std::vector<int>{from, to} : std::vector<int>{},
                               std::to_string(from) + " to " + std::to_string(to));
        if (ranks.rank() == from) to_[to] = std::move(way);
        if (ranks.rank() == to) from_[from] = std::move(way);
      }
    }
  }

  PipelineChannels channels() {
    return {[this](int rank) -> Communicator& { return *to_.at(rank); },
            [this](int rank) -> Communicator& { return *from_.at(rank); }};
  }

 private:
  std::map<int, std::unique_ptr<Communicator>> to_, from_;
};

}  // namespace trireme
