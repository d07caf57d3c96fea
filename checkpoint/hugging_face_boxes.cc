#include "checkpoint/hugging_face_boxes.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "core/error.h"

namespace trireme {

namespace {

Shape shape_of(const TensorSpec& spec) { return Shape(std::span<const int64_t>(spec.shape)); }

// The name under which the file has the tensor: with or without the optional prefix.
std::string stored_name(const SafetensorsReader& reader, const NameMap& map, const std::string& hf_name) {
  const bool strips = !map.optional_prefix.empty() && hf_name.starts_with(map.optional_prefix);
  const std::string stripped = strips ? hf_name.substr(map.optional_prefix.size()) : hf_name;
  return !reader.contains(hf_name) && reader.contains(stripped) ? stripped : hf_name;
}

// The dim along which a Hugging Face tensor joins parameters.
int out_dim(const NameMapEntry& entry) { return is_turned(entry) ? 1 : 0; }

Shape with(const Shape& shape, int dim, int64_t value) {
  std::array<int64_t, Shape::kMaxDims> dims{};
  std::copy(shape.dims().begin(), shape.dims().end(), dims.begin());
  dims[static_cast<size_t>(dim)] = value;
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(shape.ndim())));
}

Box turned(const Box& box) { return {{box.begin[1], box.begin[0]}, {box.size[1], box.size[0]}}; }

Box moved(const Box& box, int dim, int64_t by) { return {with(box.begin, dim, box.begin[dim] + by), box.size}; }

template <size_t kWidth>
void transpose_as(const std::byte* from, int64_t rows, int64_t columns, std::byte* to) {
  constexpr int64_t kTile = 32;  // a tile of both sides stays in the first cache
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (int64_t c0 = 0; c0 < columns; c0 += kTile) {
      for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
        for (int64_t c = c0; c < std::min(columns, c0 + kTile); ++c) {
          std::memcpy(to + static_cast<size_t>(c * rows + r) * kWidth,
                      from + static_cast<size_t>(r * columns + c) * kWidth, kWidth);
        }
      }
    }
  }
}

}  // namespace

void for_each_piece(const Shape& shape, int64_t max_elements, const std::function<void(const Box&)>& piece) {
  TRIREME_CHECK(max_elements >= 1);
  if (shape.numel() == 0) return;
  const int ndim = shape.ndim();
  if (ndim == 0) return piece(Box::whole(shape));
  // The first dim whose single indices are small enough is cut; those before it are walked one by one.
  int cut = 0;
  int64_t inner = shape.numel() / shape[0];
  while (inner > max_elements) inner /= shape[++cut];
  const int64_t step = std::min(shape[cut], max_elements / inner);
  Box box = Box::whole(shape);
  for (int d = 0; d < cut; ++d) box.size = with(box.size, d, 1);
  while (true) {
    for (int64_t at = 0; at < shape[cut]; at += step) {
      box.begin = with(box.begin, cut, at);
      box.size = with(box.size, cut, std::min(step, shape[cut] - at));
      piece(box);
    }
    int d = cut - 1;
    while (d >= 0 && box.begin[d] + 1 == shape[d]) box.begin = with(box.begin, d--, 0);
    if (d < 0) return;
    box.begin = with(box.begin, d, box.begin[d] + 1);
  }
}

bool is_turned(const NameMapEntry& entry) { return entry.transposed && entry.hf_shape.ndim() == 2; }

Box to_hugging_face(const NameMapEntry& entry, const Box& box) {
  return moved(is_turned(entry) ? turned(box) : box, out_dim(entry), entry.out_begin);
}

std::optional<Box> from_hugging_face(const NameMapEntry& entry, const Shape& shape, const Box& box) {
  const std::optional<Box> common = intersection(to_hugging_face(entry, Box::whole(shape)), box);
  if (!common || common->numel() == 0) return std::nullopt;
  const Box own = moved(*common, out_dim(entry), -entry.out_begin);
  return is_turned(entry) ? turned(own) : own;
}

void transpose(std::span<const std::byte> from, int64_t rows, int64_t columns, int64_t width, std::span<std::byte> to) {
  TRIREME_CHECK(from.size() == to.size() && std::ssize(from) == rows * columns * width);
  if (width == 4) return transpose_as<4>(from.data(), rows, columns, to.data());
  TRIREME_CHECK(width == 2, "elements of another width");
  transpose_as<2>(from.data(), rows, columns, to.data());
}

void read_box(const SafetensorsReader& reader, const std::string& name, const Box& box, std::span<std::byte> out) {
  const TensorSpec& spec = reader.spec(name);
  const int64_t width = file_dtype_bytes(spec.dtype);
  TRIREME_CHECK(std::ssize(out) == box.numel() * width);
  const std::span<const std::byte> all = reader.bytes(name);
  for_each_run(Box::whole(shape_of(spec)), box, [&](int64_t from, int64_t to, int64_t n) {
    std::memcpy(out.data() + to * width, all.data() + from * width, static_cast<size_t>(n * width));
  });
}

void read_box(const SafetensorsReader& reader, const std::string& name, const Box& box, std::span<float> out) {
  TRIREME_CHECK(std::ssize(out) == box.numel());
  for_each_run(Box::whole(shape_of(reader.spec(name))), box, [&](int64_t from, int64_t to, int64_t n) {
    reader.read(name, from, out.subspan(static_cast<size_t>(to), static_cast<size_t>(n)));
  });
}

std::vector<HuggingFaceGroup> hugging_face_groups(const NameMap& map) {
  std::vector<HuggingFaceGroup> groups;
  std::map<std::string, size_t> known;
  for (const NameMapEntry& entry : map.entries) {
    const auto [found, added] = known.emplace(entry.hf_name, groups.size());
    if (added) groups.push_back({entry.hf_name, entry.hf_shape, {}});
    groups[found->second].parts.push_back(&entry);
  }
  return groups;
}

std::vector<std::string> match_hugging_face(const SafetensorsReader& reader, const NameMap& map) {
  constexpr const char* kHint = "the config.json that belongs to these weights";
  std::vector<std::string> names;
  std::set<std::string> used;
  for (const NameMapEntry& entry : map.entries) {
    const std::string name = stored_name(reader, map, entry.hf_name);
    if (entry.is_optional && !reader.contains(name)) {
      names.emplace_back();
      continue;
    }
    const Shape found = shape_of(reader.spec(name));
    if (!(found == entry.hf_shape)) {
      throw DataError({.what = "tensor " + name + " has another shape than the model",
                       .expected = entry.hf_shape.str(),
                       .found = found.str(),
                       .where = reader.file_of(name),
                       .hint = kHint});
    }
    names.push_back(name);
    used.insert(name);
  }
  for (const std::string& name : reader.names()) {
    const bool ignored = std::any_of(map.ignored_suffixes.begin(), map.ignored_suffixes.end(),
                                     [&](const std::string& suffix) { return name.ends_with(suffix); }) ||
                         std::any_of(map.ignored_prefixes.begin(), map.ignored_prefixes.end(),
                                     [&](const std::string& prefix) { return name.starts_with(prefix); });
    if (used.contains(name) || ignored) continue;
    throw DataError(
        {.what = "tensor " + name + " is none of this model's", .where = reader.file_of(name), .hint = kHint});
  }
  return names;
}

}  // namespace trireme
