// Which part of a Hugging Face tensor a part of one of our parameters is, by the family's table (parallel/name_map.h), and
// how tensors too large for the memory are walked piece by piece.
//
// Ours are [out, in]; a Hugging Face tensor may join several along its output dim, and may be stored [in, out].
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "core/formats/safetensors.h"
#include "parallel/name_map.h"

namespace trireme {

// What one step of a copy holds in memory, two or three times.
inline constexpr int64_t kPieceBytes = int64_t{16} << 20;

// Boxes of at most `max_elements` (at least one) that cover a tensor one after another in row-major order.
void for_each_piece(const Shape& shape, int64_t max_elements, const std::function<void(const Box&)>& piece);

// A box of the parameter, as a box of its Hugging Face tensor.
Box to_hugging_face(const NameMapEntry& entry, const Box& box);
// What of the parameter, whose shape is `shape`, lies in a box of its Hugging Face tensor.
std::optional<Box> from_hugging_face(const NameMapEntry& entry, const Shape& shape, const Box& box);
// The table's entries change the order of the elements: a matrix is stored the other way round.
bool is_turned(const NameMapEntry& entry);

// Elements of `width` bytes, [rows, columns] -> [columns, rows].
void transpose(std::span<const std::byte> from, int64_t rows, int64_t columns, int64_t width, std::span<std::byte> to);

// A box of a tensor of safetensors files, row-major: as it is, and as fp32.
void read_box(const SafetensorsReader& reader, const std::string& name, const Box& box, std::span<std::byte> out);
void read_box(const SafetensorsReader& reader, const std::string& name, const Box& box, std::span<float> out);

// A tensor of a Hugging Face directory, and the entries of the table that it joins, in the order of the table.
struct HuggingFaceGroup {
  std::string name;  // as in the table, or in the file
  Shape shape;
  std::vector<const NameMapEntry*> parts;
};
// `map` outlives them.
std::vector<HuggingFaceGroup> hugging_face_groups(const NameMap& map);

// Checks that the files hold this model's tensors and no others, all with their shapes, and returns for each entry of
// the table the name of its tensor in them, "" for an optional one that they lack. DataError that names the tensor and its file.
std::vector<std::string> match_hugging_face(const SafetensorsReader& reader, const NameMap& map);

}  // namespace trireme
