// What the kernels of AdamW take on every device: the constants of one step, and which weights they move.
#pragma once

#include <cmath>

#include "core/ops/adamw.h"
#include "core/ops/math.h"

namespace trireme::ops {

// Formed in fp64 and rounded once; `decay` is that of the ranges that decay.
inline math::AdamWStep adamw_step(const AdamW& options) {
  const double beta1 = options.beta1;
  const double beta2 = options.beta2;
  const double t = static_cast<double>(options.step);
  math::AdamWStep step;
  step.beta1 = options.beta1;
  step.one_minus_beta1 = static_cast<float>(1.0 - beta1);
  step.beta2 = options.beta2;
  step.one_minus_beta2 = static_cast<float>(1.0 - beta2);
  step.eps = options.eps;
  step.rate = static_cast<float>(options.lr / (1.0 - std::pow(beta1, t)));
  step.inv_sqrt_correct2 = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, t)));
  step.decay = static_cast<float>(static_cast<double>(options.lr) * options.weight_decay);
  return step;
}

// The weights of AdamWTensors, a parameter of the kernels.
enum class Stored : uint8_t { master, master_and_weight, weight };

// Calls f.template operator()<which of them are there>().
template <class F>
void with_stored(const AdamWTensors& state, F&& f) {
  if (!state.weight.defined()) {
    f.template operator()<Stored::master>();
  } else if (state.master.defined()) {
    f.template operator()<Stored::master_and_weight>();
  } else {
    f.template operator()<Stored::weight>();
  }
}

}  // namespace trireme::ops
