#include "checkpoint/hugging_face_export.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/state_tensors.h"
#include "core/error.h"
#include "core/formats/atomic_file.h"
#include "core/tensor/dtype.h"

namespace trireme {

namespace {

// A tensor to write, and what of the checkpoint it is made of.
struct OutputTensor {
  TensorSpec spec;
  HuggingFaceGroup group;
  std::vector<const StoredTensor*> stored;  // of each part
};

Shape parameter_shape(const HuggingFaceGroup& group, size_t part) {
  const NameMapEntry& entry = *group.parts[part];
  const int dim = is_turned(entry) ? 1 : 0;
  const int64_t end = part + 1 < group.parts.size() ? group.parts[part + 1]->out_begin : group.shape[dim];
  const int64_t out = end - entry.out_begin;
  return group.shape.ndim() == 1 ? Shape{out} : Shape{out, group.shape[1 - dim]};
}

OutputTensor plan_tensor(const CheckpointReader& reader, const HuggingFaceGroup& group,
                         std::optional<FileDType> wanted) {
  OutputTensor out{{.name = group.name, .dtype = FileDType::bf16, .shape = {}}, group, {}};
  out.spec.shape.assign(group.shape.dims().begin(), group.shape.dims().end());
  for (size_t i = 0; i < group.parts.size(); ++i) {
    const StoredTensor& stored = reader.tensor(group.parts[i]->parameter);
    const Shape expected = parameter_shape(group, i);
    if (!(stored.shape == expected)) {
      throw DataError({.what = "tensor " + stored.name + " has another shape than the model",
                       .expected = expected.str(),
                       .found = stored.shape.str(),
                       .where = reader.path(),
                       .hint = "the model section that belongs to this checkpoint"});
    }
    if (stored.dtype != FileDType::bf16) out.spec.dtype = FileDType::f32;
    out.stored.push_back(&stored);
  }
  if (wanted && !group.parts.front()->is_buffer) out.spec.dtype = *wanted;
  return out;
}

// Of the whole model, in the order of the table. The checkpoint has no weights besides.
std::vector<OutputTensor> plan_tensors(const CheckpointReader& reader, const NameMap& map,
                                       std::optional<FileDType> dtype) {
  std::vector<OutputTensor> tensors;
  for (const HuggingFaceGroup& group : hugging_face_groups(map)) tensors.push_back(plan_tensor(reader, group, dtype));
  std::set<std::string> known;
  for (const NameMapEntry& entry : map.entries) known.insert(entry.parameter);
  for (const StoredTensor& stored : reader.manifest().tensors) {
    if (stored.name.starts_with(kOptimizerPrefix) || known.contains(stored.name)) continue;
    throw DataError({.what = "tensor " + stored.name + " is none of this model's",
                     .where = reader.path(),
                     .hint = "the model section that belongs to this checkpoint"});
  }
  return tensors;
}

// Elements of a box in the output's dtype.
class PieceReader {
 public:
  PieceReader(const CheckpointReader& reader, const OutputTensor& tensor)
      : reader_(reader), tensor_(tensor), width_(file_dtype_bytes(tensor.spec.dtype)) {}

  // A piece of the Hugging Face tensor, row-major; valid until the next call.
  std::span<const std::byte> read(const Box& piece) {
    piece_.resize(static_cast<size_t>(piece.numel() * width_));
    for (size_t i = 0; i < tensor_.group.parts.size(); ++i) {
      const NameMapEntry& entry = *tensor_.group.parts[i];
      const std::optional<Box> own = from_hugging_face(entry, tensor_.stored[i]->shape, piece);
      if (!own) continue;
      read_own(*tensor_.stored[i], *own);
      if (is_turned(entry)) {
        turned_.resize(own_.size());
        transpose(own_, own->size[0], own->size[1], width_, turned_);
        std::swap(own_, turned_);
      }
      for_each_run(piece, to_hugging_face(entry, *own), [&](int64_t to, int64_t from, int64_t n) {
        std::memcpy(piece_.data() + to * width_, own_.data() + from * width_, static_cast<size_t>(n * width_));
      });
    }
    return piece_;
  }

 private:
  void read_own(const StoredTensor& stored, const Box& box) {
    const auto n = static_cast<size_t>(box.numel());
    own_.resize(n * static_cast<size_t>(width_));
    if (stored.dtype == tensor_.spec.dtype) return reader_.read_raw(stored, box, own_);
    if (tensor_.spec.dtype == FileDType::f32) {
      return reader_.read(stored, box, std::span(reinterpret_cast<float*>(own_.data()), n));
    }
    TRIREME_CHECK(tensor_.spec.dtype == FileDType::bf16);
    wide_.resize(n);
    reader_.read(stored, box, std::span<float>(wide_));
    auto* narrow = reinterpret_cast<uint16_t*>(own_.data());
    for (size_t i = 0; i < n; ++i) narrow[i] = bf16::round(wide_[i]);
  }

  const CheckpointReader& reader_;
  const OutputTensor& tensor_;
  int64_t width_;
  std::vector<std::byte> piece_;
  std::vector<std::byte> own_;
  std::vector<std::byte> turned_;
  std::vector<float> wide_;
};

// Consecutive tensors for each file.
std::vector<std::vector<const OutputTensor*>> plan_shards(const std::vector<OutputTensor>& tensors, int64_t max_bytes) {
  std::vector<std::vector<const OutputTensor*>> shards;
  int64_t bytes = 0;
  for (const OutputTensor& tensor : tensors) {
    if (shards.empty() || bytes + tensor.spec.bytes() > max_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&tensor);
    bytes += tensor.spec.bytes();
  }
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

void write_text(FileSystem& files, const std::string& path, const std::string& text) {
  AtomicFile file(path, files);
  file.append(std::as_bytes(std::span<const char>(text)));
  file.commit();
}

}  // namespace

ExportedWeights export_hugging_face(FileSystem& files, const CheckpointReader& reader, const NameMap& map,
                                    const ExportOptions& options, const std::string& dir) {
  const std::vector<OutputTensor> tensors = plan_tensors(reader, map, options.dtype);
  const auto shards = plan_shards(tensors, options.max_shard_bytes);
  ExportedWeights result;
  std::map<std::string, std::string> weight_map;
  int64_t narrow_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    std::vector<TensorSpec> specs;
    for (const OutputTensor* tensor : shards[i]) specs.push_back(tensor->spec);
    SafetensorsWriter writer((std::filesystem::path(dir) / name).string(), specs, {{"format", "pt"}}, files);
    for (const OutputTensor* tensor : shards[i]) {
      PieceReader pieces(reader, *tensor);
      for_each_piece(tensor->group.shape, options.piece_bytes / file_dtype_bytes(tensor->spec.dtype),
                     [&](const Box& piece) { writer.write(tensor->spec.name, pieces.read(piece)); });
      weight_map[tensor->spec.name] = name;
      result.bytes += tensor->spec.bytes();
      if (tensor->spec.dtype == FileDType::bf16) narrow_bytes += tensor->spec.bytes();
    }
    writer.finish();
    result.files.push_back(name);
  }
  result.num_tensors = std::ssize(tensors);
  result.dtype = 2 * narrow_bytes > result.bytes ? FileDType::bf16 : FileDType::f32;
  if (shards.size() > 1) {
    const nlohmann::json index = {{"metadata", {{"total_size", result.bytes}}}, {"weight_map", weight_map}};
    write_text(files, (std::filesystem::path(dir) / "model.safetensors.index.json").string(), index.dump(2) + "\n");
  }
  return result;
}

}  // namespace trireme
