// Weights from and to Hugging Face's names and shapes, by the table that the model family hands down
// (parallel/name_map.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/formats/safetensors.h"
#include "parallel/model_state.h"
#include "parallel/name_map.h"

namespace trireme {

// Fills the weights from the safetensors of a Hugging Face directory, on every rank. DataError that names the tensor when
// one is missing, has another shape, or is none of this model's.
void load_hugging_face(const SafetensorsReader& reader, const NameMap& map, const ModelState& model);

// One tensor in Hugging Face's name, shape and orientation.
struct HuggingFaceTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

// Calls `sink` with every tensor of the model, made from `buffer` of its parameters, in the order of the table. Collective
// over the world; `sink` is called on every rank.
void visit_hugging_face(const NameMap& map, const ModelState& model, Bucket::Buffer buffer,
                        const std::function<void(const HuggingFaceTensor&)>& sink);

// The specs of those tensors, `prefix` in front of each name.
std::vector<TensorSpec> hugging_face_specs(const NameMap& map, const std::string& prefix);

}  // namespace trireme
