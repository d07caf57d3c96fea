#include "parallel/model_state.h"

#include <utility>

#include "core/error.h"

namespace trireme {

ModelState::ModelState(Stream& stream, std::vector<Parameter> parameters, const std::vector<ParameterRef>& local,
                       Communicator* world, Stream* host_stream)
    : stream_(stream), parameters_(std::move(parameters)), world_(world), host_stream_(host_stream) {
  for (size_t i = 0; i < parameters_.size(); ++i) places_[parameters_[i].name] = i;
  for (const ParameterRef& ref : local) local_[ref.parameter->name] = ref;
}

ModelState::ModelState(Stream& stream, std::vector<Parameter> parameters, std::vector<ParameterRef> local)
    : ModelState(stream, std::move(parameters), local, nullptr, nullptr) {}

ModelState::ModelState(Stream& stream, std::vector<Parameter> parameters, std::vector<ParameterRef> local,
                       Communicator& world, Stream& host_stream)
    : ModelState(stream, std::move(parameters), local, world.size() > 1 ? &world : nullptr, &host_stream) {}

const Parameter& ModelState::find(const std::string& name) const {
  const auto found = places_.find(name);
  TRIREME_CHECK(found != places_.end(), "a parameter that the model lacks");
  return parameters_[found->second];
}

// Of equal copies one speaks; the others add zeros. The sum is one of integers, so that the bits of every float, the
// sign of a zero among them, come through.
void ModelState::read(const Parameter& parameter, Bucket::Buffer kind, std::vector<float>& host) const {
  host.assign(static_cast<size_t>(parameter.shape.numel()), 0.0f);
  const auto found = local_.find(parameter.name);
  if (found != local_.end() && found->second.speaks) {
    found->second.bucket->read(stream_, *found->second.parameter, kind, host.data());
  }
  if (world_ == nullptr) return;
  static_assert(sizeof(float) == sizeof(int32_t));
  const Tensor bits = Tensor::borrow(host.data(), {parameter.shape.numel()}, DType::i32);
  world_->all_reduce(bits, ReduceOp::sum, *host_stream_)->wait(*host_stream_);
}

void ModelState::write(const Parameter& parameter, Bucket::Buffer kind, const float* host) const {
  const auto found = local_.find(parameter.name);
  if (found != local_.end()) found->second.bucket->write(stream_, *found->second.parameter, kind, host);
}

}  // namespace trireme
