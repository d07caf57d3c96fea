#include <algorithm>
#include <bit>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/formats/safetensors.h"

namespace trireme {

using nlohmann::json;

namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";
// The limit of the reference implementation; a header beyond it is a damaged length.
constexpr int64_t kMaxHeaderBytes = 100'000'000;

[[noreturn]] void fail(const std::string& what, const std::string& where, const std::string& expected = "",
                       const std::string& found = "", const std::string& hint = "") {
  throw DataError({.what = what, .expected = expected, .found = found, .where = where, .hint = hint});
}

// JSON with our error instead of the library's.
json parse_json(std::span<const std::byte> text, const std::string& where) {
  const char* begin = reinterpret_cast<const char*>(text.data());
  json value = json::parse(begin, begin + text.size(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) fail("the header is not JSON", where, "", "", "copying or making the file again");
  if (!value.is_object()) fail("the header is not a JSON object", where);
  return value;
}

// An unsigned integer of at most 2^63 - 1, or -1.
int64_t to_size(const json& value) {
  if (!value.is_number_unsigned()) return -1;
  const auto number = value.get<uint64_t>();
  return number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ? -1 : static_cast<int64_t>(number);
}

struct HeaderTensor {
  TensorSpec spec;
  int64_t begin;
  int64_t end;
};

HeaderTensor parse_tensor(const std::string& name, const json& value, const std::string& path) {
  const std::string where = "tensor '" + name + "' of " + path;
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets")) {
    fail("a tensor of the header is incomplete", where, "dtype, shape and data_offsets");
  }
  HeaderTensor tensor{{.name = name, .dtype = FileDType::f32, .shape = {}}, 0, 0};
  const json& dtype = value["dtype"];
  if (!dtype.is_string() || !parse_file_dtype(dtype.get_ref<const std::string&>(), tensor.spec.dtype)) {
    fail("the tensor's dtype is not known", where, "F32, BF16, F16, F64, I32, I64, U8, …", dtype.dump());
  }

  const json& shape = value["shape"];
  if (!shape.is_array()) fail("the tensor's shape is not a list", where, "", shape.dump());
  int64_t bytes = file_dtype_bytes(tensor.spec.dtype);
  for (const json& dim : shape) {
    const int64_t size = to_size(dim);
    if (size < 0 || (size > 0 && bytes > std::numeric_limits<int64_t>::max() / size)) {
      fail("the tensor's shape is not possible", where, "sizes of 0 or more", shape.dump());
    }
    tensor.spec.shape.push_back(size);
    bytes *= size;
  }

  const json& offsets = value["data_offsets"];
  const bool pair = offsets.is_array() && offsets.size() == 2;
  tensor.begin = pair ? to_size(offsets[0]) : -1;
  tensor.end = pair ? to_size(offsets[1]) : -1;
  if (tensor.begin < 0 || tensor.end < tensor.begin) {
    fail("the tensor's data_offsets are not possible", where, "[begin, end]", offsets.dump());
  }
  if (tensor.end - tensor.begin != bytes) {
    fail("the tensor's shape and data_offsets disagree", where,
         std::to_string(bytes) + " bytes for " + file_dtype_name(tensor.spec.dtype) + shape.dump(),
         std::to_string(tensor.end - tensor.begin) + " bytes");
  }
  return tensor;
}

// A header's tensors in the order of their data, checked to fill `data_bytes` exactly.
std::vector<HeaderTensor> parse_tensors(const json& header, int64_t data_bytes, const std::string& path) {
  std::vector<HeaderTensor> tensors;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") tensors.push_back(parse_tensor(name, value, path));
  }
  std::sort(tensors.begin(), tensors.end(), [](const HeaderTensor& a, const HeaderTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t end = 0;
  for (const HeaderTensor& tensor : tensors) {
    if (tensor.begin != end) {
      fail(tensor.begin < end ? "two tensors overlap" : "there is a gap before the tensor",
           "tensor '" + tensor.spec.name + "' of " + path, "data from byte " + std::to_string(end),
           "byte " + std::to_string(tensor.begin));
    }
    end = tensor.end;
  }
  if (end != data_bytes) {
    fail(end > data_bytes ? "the file is truncated" : "the file has bytes that belong to no tensor", path,
         std::to_string(end) + " bytes of data", std::to_string(data_bytes), "copying or making the file again");
  }
  return tensors;
}

}  // namespace

int64_t TensorSpec::numel() const {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;

SafetensorsReader::SafetensorsReader(const std::string& path) : path_(path) {
  const std::string index = path + "/" + kIndexName;
  const std::string single = path + "/" + kSingleName;
  std::error_code ignored;
  if (path.ends_with(".index.json")) {
    add_index(path);
  } else if (!std::filesystem::is_directory(path, ignored)) {
    add_file(path, tensors_);
  } else if (file_exists(index)) {
    add_index(index);
  } else if (file_exists(single)) {
    add_file(single, tensors_);
  } else {
    const bool pickled =
        file_exists(path + "/pytorch_model.bin") || file_exists(path + "/pytorch_model.bin.index.json");
    fail("the directory holds no weights in safetensors", path, std::string(kSingleName) + " or " + kIndexName,
         pickled ? "pytorch_model.bin" : "neither",
         pickled ? "save_pretrained(..., safe_serialization=True) to convert it"
                 : "a directory that save_pretrained wrote");
  }
}

void SafetensorsReader::add_file(const std::string& path, std::map<std::string, Entry>& found) {
  MappedFile file(path);
  if (file.size_bytes() < 8) {
    fail("the file is truncated", path, "at least 8 bytes", std::to_string(file.size_bytes()));
  }
  const auto length = file.at<uint64_t>(0);
  if (length > static_cast<uint64_t>(std::min(kMaxHeaderBytes, file.size_bytes() - 8))) {
    fail("this is not a whole safetensors file: its header doesn't fit", path,
         "a header of at most " + std::to_string(std::min(kMaxHeaderBytes, file.size_bytes() - 8)) + " bytes",
         std::to_string(length));
  }
  const auto header_bytes = static_cast<int64_t>(length);
  const json header = parse_json(file.bytes(8, header_bytes), path);
  if (header.contains("__metadata__")) {
    const json& metadata = header["__metadata__"];
    if (!metadata.is_object()) fail("__metadata__ is not a JSON object", path);
    for (const auto& [key, value] : metadata.items()) {
      if (!value.is_string()) fail("__metadata__ may hold text only", path, "a string for '" + key + "'", value.dump());
      metadata_[key] = value.get<std::string>();
    }
  }
  const int64_t data_at = 8 + header_bytes;
  for (HeaderTensor& tensor : parse_tensors(header, file.size_bytes() - data_at, path)) {
    const std::string name = tensor.spec.name;
    found.emplace(name, Entry{std::move(tensor.spec), files_.size(), data_at + tensor.begin});
  }
  files_.push_back(std::move(file));
}

void SafetensorsReader::add_index(const std::string& index_path) {
  const std::string directory = std::filesystem::path(index_path).parent_path().string();
  json index;
  {
    const MappedFile file(index_path);
    index = parse_json(file.bytes(0, file.size_bytes()), index_path);
  }
  if (!index.contains("weight_map") || !index["weight_map"].is_object() || index["weight_map"].empty()) {
    fail("the index names no tensors", index_path, "\"weight_map\": {name: file}");
  }
  std::map<std::string, std::map<std::string, Entry>> shards;
  for (const auto& [name, value] : index["weight_map"].items()) {
    if (!value.is_string()) fail("the index gives no file for '" + name + "'", index_path, "a file name", value.dump());
    const auto shard = value.get<std::string>();
    if (shard.empty() || shard.find('/') != std::string::npos) {
      fail("the index names a file outside its directory", index_path, "a plain file name", "'" + shard + "'");
    }
    const std::string shard_path = directory.empty() ? shard : directory + "/" + shard;
    if (!shards.contains(shard)) add_file(shard_path, shards[shard]);
    const auto found = shards[shard].find(name);
    if (found == shards[shard].end()) {
      fail("a tensor of the index is not in its file", shard_path, "'" + name + "'", "",
           "copying the directory again: the index and the files don't belong together");
    }
    tensors_.emplace(name, found->second);
  }
}

std::vector<std::string> SafetensorsReader::names() const {
  std::vector<std::string> out;
  for (const auto& [name, entry] : tensors_) out.push_back(name);
  return out;
}

const SafetensorsReader::Entry& SafetensorsReader::entry(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    const std::string nearest = nearest_word(name, names());
    fail("there is no tensor '" + name + "'", path_, "", "",
         nearest.empty() ? "a look at the names in the file" : "'" + nearest + "', the nearest name there");
  }
  return found->second;
}

const TensorSpec& SafetensorsReader::spec(const std::string& name) const { return entry(name).spec; }

const std::string& SafetensorsReader::file_of(const std::string& name) const { return files_[entry(name).file].path(); }

std::span<const std::byte> SafetensorsReader::bytes(const std::string& name) const {
  const Entry& tensor = entry(name);
  return files_[tensor.file].bytes(tensor.offset, tensor.spec.bytes());
}

namespace {

// Copies element by element: the data of a foreign file need not be aligned.
template <class From, class To, class Convert>
void convert(std::span<const std::byte> bytes, std::span<To> out, Convert&& convert_one) {
  for (size_t i = 0; i < out.size(); ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
    out[i] = convert_one(value);
  }
}

}  // namespace

template <class T>
void SafetensorsReader::read_as(const std::string& name, int64_t begin, std::span<T> out) const {
  const Entry& tensor = entry(name);
  const auto count = static_cast<int64_t>(out.size());
  TRIREME_CHECK(begin >= 0 && count <= tensor.spec.numel() && begin <= tensor.spec.numel() - count,
                "read outside the tensor");
  const int64_t width = file_dtype_bytes(tensor.spec.dtype);
  const auto from = files_[tensor.file].bytes(tensor.offset + begin * width, count * width);
  const auto plain = [](auto value) { return static_cast<T>(value); };
  const bool floats = std::is_floating_point_v<T>;
  switch (tensor.spec.dtype) {
    case FileDType::f32:
      if (floats) return convert<float>(from, out, plain);
      break;
    case FileDType::f64:
      if (floats) return convert<double>(from, out, plain);
      break;
    case FileDType::bf16:
      if (floats) {
        return convert<uint16_t>(from, out, [](uint16_t bits) {
          return static_cast<T>(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
        });
      }
      break;
    case FileDType::f16:
      if (floats)
        return convert<uint16_t>(from, out, [](uint16_t bits) { return static_cast<T>(half_to_float(bits)); });
      break;
    case FileDType::i32:
      if (!floats) return convert<int32_t>(from, out, plain);
      break;
    case FileDType::i64:
      if (!floats) return convert<int64_t>(from, out, plain);
      break;
    case FileDType::u8:
      if (!floats) return convert<uint8_t>(from, out, plain);
      break;
    default: break;
  }
  fail("the tensor's dtype can't be read here", "tensor '" + name + "' of " + files_[tensor.file].path(),
       floats ? "F32, BF16, F16 or F64" : "I32, I64 or U8", file_dtype_name(tensor.spec.dtype));
}

void SafetensorsReader::read(const std::string& name, int64_t begin, std::span<float> out) const {
  read_as(name, begin, out);
}
void SafetensorsReader::read(const std::string& name, int64_t begin, std::span<double> out) const {
  read_as(name, begin, out);
}
void SafetensorsReader::read(const std::string& name, int64_t begin, std::span<int64_t> out) const {
  read_as(name, begin, out);
}

}  // namespace trireme
