#include "launcher/diagnose.h"

#include <cmath>

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

bool is_finite(Stream& stream, const Tensor& x) {
  Tensor wide = x;
  if (x.dtype() == DType::bf16) {
    wide = Tensor::empty(stream, x.shape(), DType::f32, MemoryTag::workspace);
    ops::cast(stream, x, wide);
  }
  // A sum of squares in fp64 is finite exactly when every fp32 element is.
  Tensor sum = Tensor::empty(stream, {1}, DType::f64, MemoryTag::workspace);
  ops::sum_squares(stream, wide, sum, /*accumulate=*/false);
  double value = 0;
  ops::copy_to_host(stream, sum, &value);
  stream.synchronize();
  return std::isfinite(value);
}

}  // namespace

std::string first_not_finite(Stream& stream, const Transformer& model, UnitHooks& hooks,
                             const std::vector<HostMicrobatch>& microbatches) {
  for (const ParameterRef& ref : model.parameters()) {
    if (!is_finite(stream, ref.bucket->shard_of(*ref.parameter, Bucket::Buffer::master)))
      return "weight " + ref.parameter->name;
  }
  const std::vector<Unit*> units = model.units();
  for (size_t j = 0; j < microbatches.size(); ++j) {
    Tensor loss = Tensor::empty(stream, {1}, DType::f64, MemoryTag::workspace);
    ops::fill(stream, loss, 0);
    const Microbatch microbatch = upload(stream, microbatches[j], loss, /*grad_scale=*/{});
    Tensor hidden;
    for (size_t i = 0; i < units.size(); ++i) {
      Unit* unit = units[i];
      Stash stash(/*keep=*/false);
      hooks.before_forward(i, /*with_gradients=*/false, stream);
      hidden = unit->forward(stream, microbatch, hidden, stash);
      hooks.after_forward(i, /*with_gradients=*/false, stream);
      if (hidden.defined() && !is_finite(stream, hidden)) {
        return "the output of " + unit->name() + ", microbatch " + std::to_string(j);
      }
    }
    double value = 0;
    ops::copy_to_host(stream, loss, &value);
    stream.synchronize();
    if (!std::isfinite(value)) return "the loss of microbatch " + std::to_string(j);
  }
  for (const ParameterRef& ref : model.parameters()) {
    if (!is_finite(stream, ref.bucket->shard_of(*ref.parameter, Bucket::Buffer::gradient)))
      return "gradient " + ref.parameter->name;
  }
  return "";
}

}  // namespace trireme
