// The parameters of the whole model with their optimizer states, wherever they lie: what checkpoints, probes and
// comparisons read and write as whole tensors on the host, in any layout.
//
// Every tensor passes through the memory of every rank, one at a time. Collective over the world: all ranks make the
// same calls in the same order.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/zero/bucket.h"

namespace trireme {

class ModelState {
 public:
  // A model of one rank.
  ModelState(Stream& stream, std::vector<Parameter> parameters, std::vector<ParameterRef> local);
  // `parameters` are those of the whole model, the same on every rank; `local` those of which this rank holds a part.
  // `world` connects all ranks' host memory; it and `host_stream` outlive the object.
  ModelState(Stream& stream, std::vector<Parameter> parameters, std::vector<ParameterRef> local, Communicator& world,
             Stream& host_stream);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  // REQUIRES: the model has it.
  const Parameter& find(const std::string& name) const;
  bool is_main() const { return world_ == nullptr || world_->rank() == 0; }

  // The whole tensor, on every rank; `host` is resized. Zero where there is no such buffer (Bucket::belongs).
  void read(const Parameter& parameter, Bucket::Buffer kind, std::vector<float>& host) const;
  // Every rank takes its part of the whole tensor.
  void write(const Parameter& parameter, Bucket::Buffer kind, const float* host) const;

 private:
  ModelState(Stream& stream, std::vector<Parameter> parameters, const std::vector<ParameterRef>& local,
             Communicator* world, Stream* host_stream);

  Stream& stream_;
  std::vector<Parameter> parameters_;
  std::map<std::string, size_t> places_;  // in parameters_
  std::map<std::string, ParameterRef> local_;
  Communicator* world_ = nullptr;
  Stream* host_stream_ = nullptr;
};

}  // namespace trireme
