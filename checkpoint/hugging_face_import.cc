#include "checkpoint/hugging_face_import.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "checkpoint/hashed_file.h"
#include "core/error.h"

namespace trireme {

namespace {

// A parameter of ours, and where it comes from.
struct InputTensor {
  const NameMapEntry* entry;
  std::string name;  // of the tensor in the files; none: zeros
  Shape shape;       // ours
  FileDType from;
  FileDType to;

  int64_t bytes() const { return shape.numel() * file_dtype_bytes(to); }
  TensorSpec spec() const {
    const auto dims = shape.dims();
    return {entry->parameter, to, {dims.begin(), dims.end()}};
  }
};

std::vector<InputTensor> plan_tensors(const SafetensorsReader& reader, const NameMap& map,
                                      const std::vector<Parameter>& parameters) {
  std::map<std::string, Shape> shapes;
  for (const Parameter& parameter : parameters) shapes[parameter.name] = parameter.shape;
  const std::vector<std::string> names = match_hugging_face(reader, map);
  std::vector<InputTensor> tensors;
  for (size_t i = 0; i < names.size(); ++i) {
    const NameMapEntry& entry = map.entries[i];
    TRIREME_CHECK(shapes.contains(entry.parameter), "a parameter that the model lacks: " + entry.parameter);
    const FileDType from = names[i].empty() ? FileDType::f32 : reader.spec(names[i]).dtype;
    const bool narrow = from == FileDType::bf16 && !entry.is_buffer;
    tensors.push_back({&entry, names[i], shapes[entry.parameter], from, narrow ? FileDType::bf16 : FileDType::f32});
  }
  return tensors;
}

// Tensors for each file; in a file those with wider elements first, so that each is aligned to its element.
std::vector<std::vector<InputTensor>> plan_files(std::vector<InputTensor> tensors, int64_t max_bytes) {
  std::vector<std::vector<InputTensor>> files;
  int64_t bytes = 0;
  for (InputTensor& tensor : tensors) {
    if (files.empty() || bytes + tensor.bytes() > max_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += tensor.bytes();
    files.back().push_back(std::move(tensor));
  }
  for (std::vector<InputTensor>& file : files) {
    std::stable_sort(file.begin(), file.end(), [](const InputTensor& a, const InputTensor& b) {
      return file_dtype_bytes(a.to) > file_dtype_bytes(b.to);
    });
  }
  return files;
}

// Appends all elements of a tensor, in our order.
void copy_tensor(const SafetensorsReader& reader, const InputTensor& tensor, int64_t piece_bytes, HashedFile& file) {
  const int64_t width = file_dtype_bytes(tensor.to);
  std::vector<std::byte> piece;
  std::vector<std::byte> turned;
  for_each_piece(tensor.shape, piece_bytes / width, [&](const Box& box) {
    const Box theirs = to_hugging_face(*tensor.entry, box);
    piece.resize(static_cast<size_t>(box.numel() * width));
    if (tensor.name.empty()) {
      std::fill(piece.begin(), piece.end(), std::byte{0});
    } else if (tensor.from == tensor.to) {
      read_box(reader, tensor.name, theirs, std::span<std::byte>(piece));
    } else {
      read_box(reader, tensor.name, theirs,
               std::span(reinterpret_cast<float*>(piece.data()), static_cast<size_t>(box.numel())));
    }
    if (is_turned(*tensor.entry)) {
      turned.resize(piece.size());
      transpose(piece, theirs.size[0], theirs.size[1], width, turned);
      std::swap(piece, turned);
    }
    file.append(piece);
  });
}

}  // namespace

Manifest import_hugging_face(FileSystem& files, const SafetensorsReader& reader, const NameMap& map,
                             const std::vector<Parameter>& parameters, const ImportOptions& options,
                             const std::string& dir) {
  Manifest manifest;
  manifest.layout = "imported from a Hugging Face directory";
  manifest.config_yaml = options.config_yaml;
  const auto planned = plan_files(plan_tensors(reader, map, parameters), options.max_file_bytes);
  for (size_t i = 0; i < planned.size(); ++i) {
    char name[48];
    std::snprintf(name, sizeof name, "weights-%05zu.safetensors", i);
    std::vector<TensorSpec> specs;
    for (const InputTensor& tensor : planned[i]) specs.push_back(tensor.spec());
    const std::string header = safetensors_header(specs);
    HashedFile file(files, (std::filesystem::path(dir) / name).string());
    file.append(std::as_bytes(std::span<const char>(header)));
    auto offset = std::ssize(header);
    for (const InputTensor& tensor : planned[i]) {
      copy_tensor(reader, tensor, options.piece_bytes, file);
      const StoredBox box{static_cast<int64_t>(i), offset, Box::whole(tensor.shape)};
      manifest.tensors.push_back({tensor.entry->parameter, tensor.to, tensor.shape, {box}});
      offset += tensor.bytes();
    }
    manifest.files.push_back(file.finish());
  }
  std::sort(manifest.tensors.begin(), manifest.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  write_manifest(files, dir, manifest);
  return manifest;
}

}  // namespace trireme
