#include "checkpoint/hugging_face.h"

#include <algorithm>
#include <map>

#include "checkpoint/hugging_face_boxes.h"
#include "checkpoint/load.h"
#include "core/error.h"

namespace trireme {

void load_hugging_face(const SafetensorsReader& reader, const NameMap& map, Stream& stream,
                       const std::vector<Bucket*>& buckets) {
  const std::vector<std::string> names = match_hugging_face(reader, map);
  std::map<std::string, size_t> entries;  // by parameter
  for (size_t i = 0; i < names.size(); ++i) entries[map.entries[i].parameter] = i;
  std::vector<float> turned;
  const ReadBox read = [&](const Parameter& parameter, const Box& box, std::span<float> out) {
    const auto found = entries.find(parameter.name);
    TRIREME_CHECK(found != entries.end(), "a parameter that the table lacks: " + parameter.name);
    const NameMapEntry& entry = map.entries[found->second];
    const std::string& name = names[found->second];
    if (name.empty()) return std::fill(out.begin(), out.end(), 0.0f);
    const Box theirs = to_hugging_face(entry, box);
    if (!is_turned(entry)) return read_box(reader, name, theirs, out);
    turned.resize(out.size());
    read_box(reader, name, theirs, std::span<float>(turned));
    transpose(std::as_bytes(std::span(turned)), theirs.size[0], theirs.size[1], sizeof(float),
              std::as_writable_bytes(out));
  };
  for (Bucket* bucket : buckets) {
    if (bucket->values_of() == nullptr) load_shard(stream, *bucket, Bucket::Buffer::master, read);
  }
}

namespace {

std::vector<HuggingFaceGroup> groups_with(const NameMap& map, const ModelState& model, Bucket::Buffer buffer) {
  std::vector<HuggingFaceGroup> groups = hugging_face_groups(map);
  std::erase_if(groups, [&](const HuggingFaceGroup& group) {
    return std::any_of(group.parts.begin(), group.parts.end(), [&](const NameMapEntry* entry) {
      return !Bucket::belongs(model.find(entry->parameter), buffer);
    });
  });
  return groups;
}

}  // namespace

void visit_hugging_face(const NameMap& map, const ModelState& model, Bucket::Buffer buffer,
                        const std::function<void(const HuggingFaceTensor&)>& sink) {
  std::vector<float> values;
  std::vector<float> turned;
  for (const HuggingFaceGroup& group : groups_with(map, model, buffer)) {
    HuggingFaceTensor tensor{group.name, group.shape, {}};
    tensor.values.resize(static_cast<size_t>(group.shape.numel()));
    for (const NameMapEntry* entry : group.parts) {
      const Parameter& parameter = model.find(entry->parameter);
      model.read(parameter, buffer, values);
      if (is_turned(*entry)) {
        turned.resize(values.size());
        transpose(std::as_bytes(std::span(values)), parameter.shape[0], parameter.shape[1], sizeof(float),
                  std::as_writable_bytes(std::span(turned)));
        std::swap(values, turned);
      }
      const Box place = to_hugging_face(*entry, Box::whole(parameter.shape));
      for_each_run(Box::whole(group.shape), place, [&](int64_t to, int64_t from, int64_t n) {
        std::copy_n(values.data() + from, n, tensor.values.data() + to);
      });
    }
    sink(tensor);
  }
}

std::vector<TensorSpec> hugging_face_specs(const NameMap& map, const ModelState& model, Bucket::Buffer buffer,
                                           const std::string& prefix) {
  std::vector<TensorSpec> specs;
  for (const HuggingFaceGroup& group : groups_with(map, model, buffer)) {
    const auto dims = group.shape.dims();
    specs.push_back({prefix + group.name, FileDType::f32, {dims.begin(), dims.end()}});
  }
  return specs;
}

}  // namespace trireme
