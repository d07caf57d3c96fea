// Weights from and to Hugging Face's names and shapes, by the table that the model family hands down
// (parallel/name_map.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/device/device.h"
#include "core/formats/safetensors.h"
#include "parallel/zero/bucket.h"
#include "parallel/name_map.h"

namespace trireme {

// Fills `parameters` from the safetensors of a Hugging Face directory. DataError that names the tensor when one is
// missing, has another shape, or is none of this model's.
void load_hugging_face(Stream& stream, const SafetensorsReader& reader, const NameMap& map,
                       const std::vector<ParameterRef>& parameters);

// One tensor in Hugging Face's name, shape and orientation.
struct HuggingFaceTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

// Calls `sink` with every tensor of the model, made from `buffer` of its parameters, in the order of the table.
void visit_hugging_face(Stream& stream, const NameMap& map, const std::vector<ParameterRef>& parameters,
                        Bucket::Buffer buffer, const std::function<void(const HuggingFaceTensor&)>& sink);

// The specs of those tensors, `prefix` in front of each name.
std::vector<TensorSpec> hugging_face_specs(const NameMap& map, const std::string& prefix);

}  // namespace trireme
