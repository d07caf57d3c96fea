#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/formats/safetensors.h"

namespace trireme {

using nlohmann::json;

std::string safetensors_header(const std::vector<TensorSpec>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  // Entry by entry, to keep the order of the list.
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + json(metadata).dump();
  int64_t end = 0;
  for (const TensorSpec& tensor : tensors) {
    const int64_t begin = end;
    end += tensor.bytes();
    const json entry = {
        {"dtype", file_dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    if (text.size() > 1) text += ',';
    text += json(tensor.name).dump() + ":" + entry.dump();
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begin aligned
  const auto length = static_cast<uint64_t>(text.size());
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                                     const std::map<std::string, std::string>& metadata, FileSystem& files)
    : file_(path, files) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return file_dtype_bytes(a.dtype) > file_dtype_bytes(b.dtype);
  });
  const std::string header = safetensors_header(tensors, metadata);
  file_.append(std::as_bytes(std::span(header)));
  size_bytes_ = file_.size_bytes();
  for (const TensorSpec& tensor : tensors) {
    const bool added = slots_.emplace(tensor.name, Slot{size_bytes_, tensor.bytes()}).second;
    TRIREME_CHECK(added && tensor.name != "__metadata__", "a tensor is listed twice: " + tensor.name);
    size_bytes_ += tensor.bytes();
  }
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = slots_.find(name);
  TRIREME_CHECK(found != slots_.end(), "a tensor that is not in the header: " + name);
  Slot& slot = found->second;
  const auto count = static_cast<int64_t>(bytes.size());
  TRIREME_CHECK(count <= slot.bytes - slot.written, "more bytes than the tensor has: " + name);
  file_.write_at(slot.offset + slot.written, bytes);
  slot.written += count;
}

void SafetensorsWriter::finish() {
  for (const auto& [name, slot] : slots_) {
    TRIREME_CHECK(slot.written == slot.bytes, "a tensor was not written whole: " + name);
  }
  file_.commit();
}

}  // namespace trireme
