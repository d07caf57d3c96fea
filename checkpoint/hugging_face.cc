#include "checkpoint/hugging_face.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"

namespace trireme {

namespace {

// The elements of one parameter inside its Hugging Face tensor: both walks call body(index in the parameter, index in
// the tensor).
template <class Body>
void walk(const NameMapEntry& entry, const Shape& shape, Body&& body) {
  const int64_t out = shape[0];
  const int64_t in = shape.ndim() > 1 ? shape[1] : 1;
  const int64_t hf_width = entry.hf_shape.ndim() > 1 ? entry.hf_shape[1] : 1;
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      const int64_t row = entry.out_begin + i;
      body(i * in + j, entry.transposed ? j * hf_width + row : row * in + j);
    }
  }
}

// The name under which the file has the tensor: with or without the optional prefix.
std::string stored_name(const SafetensorsReader& reader, const NameMap& map, const std::string& hf_name) {
  const bool strips = !map.optional_prefix.empty() && hf_name.starts_with(map.optional_prefix);
  const std::string stripped = strips ? hf_name.substr(map.optional_prefix.size()) : hf_name;
  return !reader.contains(hf_name) && reader.contains(stripped) ? stripped : hf_name;
}

}  // namespace

void load_hugging_face(const SafetensorsReader& reader, const NameMap& map, const ModelState& model) {
  std::set<std::string> used;
  std::vector<float> stored;
  std::vector<float> values;
  for (const NameMapEntry& entry : map.entries) {
    const Parameter& parameter = model.find(entry.parameter);
    const std::string name = stored_name(reader, map, entry.hf_name);
    const TensorSpec& spec = reader.spec(name);
    const Shape found{std::span<const int64_t>(spec.shape)};
    if (!(found == entry.hf_shape)) {
      throw DataError({.what = "tensor " + name + " has another shape than the model",
                       .expected = entry.hf_shape.str(),
                       .found = found.str(),
                       .where = reader.file_of(name),
                       .hint = "the config.json that belongs to these weights"});
    }
    used.insert(name);
    stored.resize(static_cast<size_t>(entry.hf_shape.numel()));
    reader.read(name, 0, std::span<float>(stored));
    values.resize(static_cast<size_t>(parameter.shape.numel()));
    walk(entry, parameter.shape, [&](int64_t ours, int64_t theirs) {
      values[static_cast<size_t>(ours)] = stored[static_cast<size_t>(theirs)];
    });
    model.write(parameter, Bucket::Buffer::master, values.data());
  }
  for (const std::string& name : reader.names()) {
    const bool ignored = std::any_of(map.ignored_suffixes.begin(), map.ignored_suffixes.end(),
                                     [&](const std::string& suffix) { return name.ends_with(suffix); });
    if (used.contains(name) || ignored) continue;
    throw DataError({.what = "tensor " + name + " is none of this model's",
                     .where = reader.file_of(name),
                     .hint = "the config.json that belongs to these weights"});
  }
}

void visit_hugging_face(const NameMap& map, const ModelState& model, Bucket::Buffer buffer,
                        const std::function<void(const HuggingFaceTensor&)>& sink) {
  std::vector<float> values;
  for (const NameMapEntry& first : map.entries) {
    if (first.out_begin != 0) continue;
    HuggingFaceTensor tensor{first.hf_name, first.hf_shape, {}};
    tensor.values.resize(static_cast<size_t>(tensor.shape.numel()));
    for (const NameMapEntry& entry : map.entries) {
      if (entry.hf_name != first.hf_name) continue;
      const Parameter& parameter = model.find(entry.parameter);
      model.read(parameter, buffer, values);
      walk(entry, parameter.shape, [&](int64_t ours, int64_t theirs) {
        tensor.values[static_cast<size_t>(theirs)] = values[static_cast<size_t>(ours)];
      });
    }
    sink(tensor);
  }
}

std::vector<TensorSpec> hugging_face_specs(const NameMap& map, const std::string& prefix) {
  std::vector<TensorSpec> specs;
  for (const NameMapEntry& entry : map.entries) {
    if (entry.out_begin != 0) continue;
    const auto dims = entry.hf_shape.dims();
    specs.push_back({prefix + entry.hf_name, FileDType::f32, {dims.begin(), dims.end()}});
  }
  return specs;
}

}  // namespace trireme
