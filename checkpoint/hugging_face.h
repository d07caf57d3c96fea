// Weights from and to Hugging Face's names and shapes, by the table that the model family hands down
// (parallel/name_map.h). Whole directories: hugging_face_export.h and hugging_face_import.h.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/formats/safetensors.h"
#include "parallel/model_state.h"
#include "parallel/name_map.h"

namespace trireme {

// Fills the weights of this rank's shards from the safetensors of a Hugging Face directory: each rank reads the boxes that
// it holds, at most 4 MiB at a time. Values that a rank keeps outside of its shard come from the other ranks afterwards,
// as after load_checkpoint (checkpoint/load.h). DataError that names the tensor and its file, before anything is filled,
// when one is missing, has another shape, or is none of this model's.
void load_hugging_face(const SafetensorsReader& reader, const NameMap& map, Stream& stream,
                       const std::vector<Bucket*>& buckets);

// One tensor in Hugging Face's name, shape and orientation.
struct HuggingFaceTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

// Calls `sink` with every tensor of the model that has such a buffer (Bucket::belongs), made from `buffer` of its
// parameters, in the order of the table. Collective over the world; `sink` is called on every rank.
void visit_hugging_face(const NameMap& map, const ModelState& model, Bucket::Buffer buffer,
                        const std::function<void(const HuggingFaceTensor&)>& sink);

// The specs of those tensors, `prefix` in front of each name.
std::vector<TensorSpec> hugging_face_specs(const NameMap& map, const ModelState& model, Bucket::Buffer buffer,
                                           const std::string& prefix);

}  // namespace trireme
