#include "checkpoint/manifest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/formats/atomic_file.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace trireme {

namespace {

constexpr std::string_view kFormat = "trireme checkpoint";
// The file begins with its own hash, which is taken with the sixteen digits as zeros.
constexpr std::string_view kHashKey = "{\"hash\":\"";
constexpr std::string_view kNoHash = "0000000000000000";
// Larger than any dim, offset or count of a real model; as many elements of eight bytes, and sums of a few, don't overflow.
constexpr int64_t kLargest = int64_t{1} << 58;

std::string manifest_path(const std::string& dir) { return (fs::path(dir) / "manifest.json").string(); }

std::string text_of(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

json json_of(const Shape& shape) { return json(std::vector<int64_t>(shape.dims().begin(), shape.dims().end())); }

json json_of(const StoredFile& file) {
  json chunks = json::array();
  for (const uint64_t hash : file.chunk_hashes) chunks.push_back(hash_text(hash));
  return {{"name", file.name}, {"bytes", file.bytes}, {"chunks", std::move(chunks)}};
}

json json_of(const StoredTensor& tensor) {
  json boxes = json::array();
  for (const StoredBox& box : tensor.boxes) {
    boxes.push_back({box.file, box.offset, json_of(box.box.begin), json_of(box.box.size)});
  }
  return {{"name", tensor.name},
          {"dtype", file_dtype_name(tensor.dtype)},
          {"shape", json_of(tensor.shape)},
          {"boxes", std::move(boxes)}};
}

// One item a line.
template <class Items>
std::string lines_of(const Items& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "\n " : ",\n ") + text_of(json_of(item));
  return text;
}

// ---- Reading: nothing in the file is believed ----

struct BadManifest {
  std::string what;
};

void require(bool condition, const std::string& what) {
  if (!condition) throw BadManifest{what};
}

int64_t count_of(const json& value, const std::string& what) {
  require(value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kLargest),
          what + " is no count: " + text_of(value).substr(0, 40));
  return value.get<int64_t>();
}

Shape shape_of(const json& value, const std::string& what) {
  require(value.is_array() && value.size() >= 1 && value.size() <= static_cast<size_t>(Shape::kMaxDims),
          what + " has no dims");
  std::vector<int64_t> dims;
  int64_t numel = 1;
  for (const json& dim : value) {
    dims.push_back(count_of(dim, what));
    require(dims.back() == 0 || numel <= kLargest / dims.back(), what + " is too large");
    numel *= std::max<int64_t>(1, dims.back());
  }
  return Shape(std::span<const int64_t>(dims));
}

StoredFile file_of(const json& value) {
  StoredFile file;
  file.name = value.at("name").get<std::string>();
  require(!file.name.empty() && file.name.find('/') == std::string::npos && file.name.find('\0') == std::string::npos &&
              file.name != "." && file.name != "..",
          "a file has the name \"" + file.name + "\"");
  file.bytes = count_of(value.at("bytes"), "the size of " + file.name);
  for (const json& chunk : value.at("chunks")) {
    const auto text = chunk.get<std::string>();
    require(text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos,
            "\"" + text + "\" of " + file.name + " is no hash");
    file.chunk_hashes.push_back(std::stoull(text, nullptr, 16));
  }
  require(static_cast<int64_t>(file.chunk_hashes.size()) == (file.bytes + kHashChunkBytes - 1) / kHashChunkBytes,
          file.name + " has another number of hashes than of chunks");
  return file;
}

StoredTensor tensor_of(const json& value, const std::vector<StoredFile>& files) {
  StoredTensor tensor;
  tensor.name = value.at("name").get<std::string>();
  require(parse_file_dtype(value.at("dtype").get<std::string>(), tensor.dtype), tensor.name + " has an unknown dtype");
  tensor.shape = shape_of(value.at("shape"), "the shape of " + tensor.name);
  for (const json& entry : value.at("boxes")) {
    require(entry.is_array() && entry.size() == 4, "a box of " + tensor.name + " has no four members");
    StoredBox box;
    const std::string what = "a box of " + tensor.name;
    box.file = count_of(entry[0], what);
    box.offset = count_of(entry[1], what);
    box.box = {shape_of(entry[2], what), shape_of(entry[3], what)};
    require(box.box.begin.ndim() == tensor.shape.ndim() && box.box.size.ndim() == tensor.shape.ndim(),
            what + " has another number of dims");
    for (int i = 0; i < tensor.shape.ndim(); ++i) {
      require(box.box.begin[i] + box.box.size[i] <= tensor.shape[i],
              what + ", " + box.box.str() + ", lies outside of " + tensor.shape.str());
    }
    require(box.file < static_cast<int64_t>(files.size()), what + " lies in a file that isn't listed");
    const int64_t bytes = box.box.numel() * file_dtype_bytes(tensor.dtype);
    require(box.offset + bytes <= files[static_cast<size_t>(box.file)].bytes,
            what + " lies behind the end of " + files[static_cast<size_t>(box.file)].name);
    tensor.boxes.push_back(std::move(box));
  }
  return tensor;
}

// Every element exactly once: the boxes are disjoint and have as many elements as the tensor.
void require_cover(const StoredTensor& tensor) {
  std::vector<const Box*> boxes;
  int64_t numel = 0;
  for (const StoredBox& box : tensor.boxes) {
    if (box.box.numel() == 0) continue;
    boxes.push_back(&box.box);
    numel += box.box.numel();
    require(numel <= tensor.shape.numel(), "the boxes of " + tensor.name + " overlap");
  }
  require(numel == tensor.shape.numel(), "the boxes of " + tensor.name + " don't cover it: " + std::to_string(numel) +
                                             " of " + std::to_string(tensor.shape.numel()) + " elements");
  std::sort(boxes.begin(), boxes.end(), [](const Box* a, const Box* b) { return a->begin[0] < b->begin[0]; });
  for (size_t i = 0; i < boxes.size(); ++i) {
    for (size_t j = i + 1; j < boxes.size() && boxes[j]->begin[0] < boxes[i]->begin[0] + boxes[i]->size[0]; ++j) {
      require(!intersection(*boxes[i], *boxes[j]),
              "boxes " + boxes[i]->str() + " and " + boxes[j]->str() + " of " + tensor.name + " overlap");
    }
  }
}

// In each file the boxes lie one behind the other up to the end, so that no byte is two elements and none is nobody's.
void require_full_files(const Manifest& manifest) {
  struct Stretch {
    int64_t begin, end;
    const StoredTensor* tensor;
  };
  std::vector<std::vector<Stretch>> stretches(manifest.files.size());
  for (const StoredTensor& tensor : manifest.tensors) {
    for (const StoredBox& box : tensor.boxes) {
      const int64_t bytes = box.box.numel() * file_dtype_bytes(tensor.dtype);
      if (bytes > 0) stretches[static_cast<size_t>(box.file)].push_back({box.offset, box.offset + bytes, &tensor});
    }
  }
  for (size_t f = 0; f < stretches.size(); ++f) {
    std::vector<Stretch>& list = stretches[f];
    const StoredFile& file = manifest.files[f];
    std::sort(list.begin(), list.end(), [](const Stretch& a, const Stretch& b) { return a.begin < b.begin; });
    for (size_t i = 0; i < list.size(); ++i) {
      const int64_t next = i + 1 < list.size() ? list[i + 1].begin : file.bytes;
      require(list[i].end == next,
              "behind a box of " + list[i].tensor->name + " in " + file.name +
                  (list[i].end < next ? " there are bytes of no tensor" : " comes one that overlaps it"));
    }
  }
}

Manifest manifest_of(const json& root) {
  Manifest manifest;
  manifest.step = count_of(root.at("step"), "step");
  manifest.consumed_samples = count_of(root.at("consumed_samples"), "consumed_samples");
  manifest.seed = root.at("seed").get<int64_t>();
  manifest.layout = root.at("layout").get<std::string>();
  manifest.config_yaml = root.at("config").get<std::string>();
  std::set<std::string> names;
  for (const json& file : root.at("files")) {
    manifest.files.push_back(file_of(file));
    require(names.insert(manifest.files.back().name).second, manifest.files.back().name + " is listed twice");
  }
  for (const json& value : root.at("tensors")) {
    manifest.tensors.push_back(tensor_of(value, manifest.files));
    require_cover(manifest.tensors.back());
  }
  std::sort(manifest.tensors.begin(), manifest.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  for (size_t i = 1; i < manifest.tensors.size(); ++i) {
    require(manifest.tensors[i].name != manifest.tensors[i - 1].name, manifest.tensors[i].name + " is listed twice");
  }
  require_full_files(manifest);
  return manifest;
}

void check_version(const json& root, const std::string& path) {
  require(root.at("format").get<std::string>() == kFormat, "it is of another format");
  const int64_t version = count_of(root.at("format_version"), "format_version");
  if (version == kManifestVersion) return;
  throw DataError({.what = version > kManifestVersion ? "the checkpoint's format is newer than this program"
                                                      : "the checkpoint's format is no longer read",
                   .expected = "format version " + std::to_string(kManifestVersion),
                   .found = std::to_string(version),
                   .where = path,
                   .hint = version > kManifestVersion ? "a newer trireme" : "the trireme that wrote it"});
}

void check_hash(std::string text, const std::string& path) {
  std::string stored = "none";
  std::string computed;
  if (text.starts_with(kHashKey) && text.size() > kHashKey.size() + kNoHash.size()) {
    stored = text.substr(kHashKey.size(), kNoHash.size());
    text.replace(kHashKey.size(), kNoHash.size(), kNoHash);
    computed = hash_text(hash_bytes(text.data(), text.size()));
  }
  if (stored == computed) return;
  throw DataError({.what = "the checkpoint's manifest is damaged",
                   .expected = "hash " + stored,
                   .found = computed.empty() ? "no hash" : computed,
                   .where = path,
                   .hint = "an older checkpoint"});
}

}  // namespace

std::string pack_share(const StoredFile& file, const std::vector<StoredTensor>& tensors) {
  json list = json::array();
  for (const StoredTensor& tensor : tensors) list.push_back(json_of(tensor));
  return text_of({{"file", json_of(file)}, {"tensors", std::move(list)}});
}

namespace {

struct Share {
  StoredFile file;
  std::vector<StoredTensor> tensors;
};

// What contradicts itself here is a bug of ours.
Share unpack_share(const std::string& text) {
  try {
    const json root = json::parse(text);
    Share share{file_of(root.at("file")), {}};
    for (const json& value : root.at("tensors")) share.tensors.push_back(tensor_of(value, {share.file}));
    return share;
  } catch (const BadManifest& bad) {
    throw BugError({.what = "a rank wrote something else than it planned: " + bad.what});
  }
}

}  // namespace

void add_share(Manifest& manifest, const std::string& text) {
  Share share = unpack_share(text);
  const auto index = static_cast<int64_t>(manifest.files.size());
  manifest.files.push_back(std::move(share.file));
  for (StoredTensor& part : share.tensors) {
    for (StoredBox& box : part.boxes) box.file = index;
    // Tensors are few thousand, boxes many.
    const auto at = std::lower_bound(manifest.tensors.begin(), manifest.tensors.end(), part.name,
                                     [](const StoredTensor& t, const std::string& name) { return t.name < name; });
    if (at == manifest.tensors.end() || at->name != part.name) {
      manifest.tensors.insert(at, std::move(part));
      continue;
    }
    TRIREME_CHECK(at->dtype == part.dtype && at->shape == part.shape, "ranks that disagree on " + part.name);
    at->boxes.insert(at->boxes.end(), part.boxes.begin(), part.boxes.end());
  }
}

void check_cover(const Manifest& manifest) {
  try {
    for (const StoredTensor& tensor : manifest.tensors) require_cover(tensor);
  } catch (const BadManifest& bad) {
    throw BugError({.what = "a checkpoint was not written whole: " + bad.what});
  }
}

uint64_t hash_bytes(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

std::string hash_text(uint64_t hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

void write_manifest(FileSystem& files, const std::string& dir, const Manifest& manifest) {
  std::string text(kHashKey);
  text += std::string(kNoHash) + "\"";
  const auto add = [&](const char* key, const json& value) {
    text += ",\n\"" + std::string(key) + "\":" + text_of(value);
  };
  add("format", kFormat);
  add("format_version", kManifestVersion);
  add("step", manifest.step);
  add("consumed_samples", manifest.consumed_samples);
  add("random", "Philox 4x32-10");
  add("seed", manifest.seed);
  add("layout", manifest.layout);
  add("config", manifest.config_yaml);
  text += ",\n\"files\":[" + lines_of(manifest.files) + "],\n\"tensors\":[" + lines_of(manifest.tensors) + "]}\n";
  const std::string hash = hash_text(hash_bytes(text.data(), text.size()));
  text.replace(kHashKey.size(), kNoHash.size(), hash);
  AtomicFile file(manifest_path(dir), files);
  file.append(std::as_bytes(std::span<const char>(text)));
  file.commit();
}

Manifest read_manifest(const std::string& dir) {
  const std::string path = manifest_path(dir);
  const MappedFile mapped(path);
  const auto bytes = mapped.bytes(0, mapped.size_bytes());
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  try {
    const json root = json::parse(text);
    check_version(root, path);
    check_hash(text, path);
    return manifest_of(root);
  } catch (const json::exception& error) {
    check_hash(text, path);  // more telling than what the parser met
    throw DataError({.what = std::string("the checkpoint's manifest can't be read: ") + error.what(),
                     .where = path,
                     .hint = "an older checkpoint"});
  } catch (const BadManifest& bad) {
    check_hash(text, path);
    throw DataError({.what = "the checkpoint's manifest contradicts itself: " + bad.what,
                     .where = path,
                     .hint = "an older checkpoint"});
  }
}

}  // namespace trireme
