// What both devices do with one token of the experts that compute next to nothing.
#pragma once

#include "core/host_device.h"
#include "core/ops/light_experts.h"

namespace trireme {

// The operands of light_factors and light_gradients.
struct LightRows {
  const int32_t* experts;
  const float* weights;
  const float* mixes;  // null without constant experts
  int64_t slots;
  ops::LightChoices choices;

  LightRows(const Tensor& expert_of_slots, const Tensor& weight_of_slots, const Tensor& mix_of_rows,
            const ops::LightChoices& numbers)
      : experts(expert_of_slots.data<int32_t>()),
        weights(weight_of_slots.data<float>()),
        mixes(numbers.num_constant > 0 ? mix_of_rows.data<float>() : nullptr),
        slots(expert_of_slots.dim(1)),
        choices(numbers) {}

  // Which constant expert a choice names: -1 is a copy expert, -2 neither.
  TRIREME_HOST_DEVICE int64_t constant_of(int32_t choice) const {
    const int64_t number = choice - choices.first;
    if (number < 0 || number >= choices.num_copy + choices.num_constant) return -2;
    return number < choices.num_copy ? -1 : number - choices.num_copy;
  }

  TRIREME_HOST_DEVICE void factors(int64_t row, float* x_factor, float* vector_factors) const {
    const int64_t num = choices.num_constant;
    for (int64_t j = 0; j < num; ++j) vector_factors[row * num + j] = 0;
    float sum = 0;
    for (int64_t k = 0; k < slots; ++k) {
      const int64_t j = constant_of(experts[row * slots + k]);
      if (j < -1) continue;
      const float w = weights[row * slots + k];
      if (j < 0) {
        sum += w;
        continue;
      }
      const float* mix = mixes + (row * num + j) * 2;
      sum += w * mix[0];
      vector_factors[row * num + j] += w * mix[1];
    }
    x_factor[row] = sum;
  }

  TRIREME_HOST_DEVICE void gradients(int64_t row, const float* x_dots, const float* vector_dots, float* dweights,
                                     float* dlogits) const {
    const int64_t num = choices.num_constant;
    for (int64_t j = 0; j < 2 * num; ++j) dlogits[row * 2 * num + j] = 0;
    const float by_x = x_dots[row];
    for (int64_t k = 0; k < slots; ++k) {
      const int64_t j = constant_of(experts[row * slots + k]);
      if (j < -1) continue;
      if (j < 0) {
        dweights[row * slots + k] = by_x;
        continue;
      }
      const float* mix = mixes + (row * num + j) * 2;
      const float by_vector = vector_dots[row * num + j];
      dweights[row * slots + k] = mix[0] * by_x + mix[1] * by_vector;
      // A softmax of two: da/dlogit_a = a·b = -da/dlogit_b.
      const float d = weights[row * slots + k] * mix[0] * mix[1] * (by_x - by_vector);
      dlogits[(row * num + j) * 2] += d;
      dlogits[(row * num + j) * 2 + 1] -= d;
    }
  }
};

}  // namespace trireme
