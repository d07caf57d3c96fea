#include "parallel/model_state.h"

#include <algorithm>

#include "core/error.h"

namespace trireme {

ModelState::ModelState(Stream& stream, std::vector<Parameter> parameters, std::vector<ParameterRef> local)
    : stream_(stream), parameters_(std::move(parameters)), local_(std::move(local)) {}

ModelState::ModelState(Stream& stream, std::vector<Parameter> parameters, std::vector<ParameterRef> local,
                       Communicator& world, Stream& host_stream)
    : stream_(stream),
      parameters_(std::move(parameters)),
      local_(std::move(local)),
      world_(world.size() > 1 ? &world : nullptr),
      host_stream_(&host_stream) {}

const Parameter& ModelState::find(const std::string& name) const {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const Parameter& p) { return p.name == name; });
  TRIREME_CHECK(found != parameters_.end(), "a parameter that the model lacks");
  return *found;
}

// Of equal copies one speaks; the others add zeros. The sum is one of integers, so that the bits of every float, the
// sign of a zero among them, come through.
void ModelState::read(const Parameter& parameter, Bucket::Buffer kind, std::vector<float>& host) const {
  host.assign(static_cast<size_t>(parameter.shape.numel()), 0.0f);
  for (const ParameterRef& ref : local_) {
    if (ref.parameter->name == parameter.name && ref.speaks) {
      ref.bucket->read(stream_, *ref.parameter, kind, host.data());
    }
  }
  if (world_ == nullptr) return;
  static_assert(sizeof(float) == sizeof(int32_t));
  const Tensor bits = Tensor::borrow(host.data(), {parameter.shape.numel()}, DType::i32);
  world_->all_reduce(bits, ReduceOp::sum, *host_stream_)->wait(*host_stream_);
}

void ModelState::write(const Parameter& parameter, Bucket::Buffer kind, const float* host) const {
  for (const ParameterRef& ref : local_) {
    if (ref.parameter->name == parameter.name) ref.bucket->write(stream_, *ref.parameter, kind, host);
  }
}

}  // namespace trireme
