#include "checkpoint/save_plan.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "checkpoint/state_tensors.h"
#include "core/error.h"

namespace trireme {

namespace {

constexpr int64_t kAlignment = 64;     // elements, as bounds of shards
constexpr int64_t kLeast = 16 * 1024;  // elements that are worth a box of their own

FileDType file_dtype(DType dtype) { return dtype == DType::bf16 ? FileDType::bf16 : FileDType::f32; }

Tensor buffer_of(Bucket& bucket, Bucket::Buffer buffer) {
  switch (buffer) {
    case Bucket::Buffer::first_moment: return bucket.first_moment();
    case Bucket::Buffer::second_moment: return bucket.second_moment();
    default: return bucket.master().defined() ? bucket.master() : bucket.value_shard();
  }
}

// The part of the bucket that this rank writes.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};
Range written_by(const Bucket& bucket, const Mesh& mesh) {
  const AxisSet copies = bucket.copy_axes();
  const int64_t in_stage = mesh.group_size(copies);
  const bool second_end = bucket.on_both_ends() && mesh.coordinate(Axis::pipeline) > 0;
  const int64_t num_copies = in_stage * (bucket.on_both_ends() ? 2 : 1);
  const int64_t copy = mesh.group_rank(copies) + (second_end ? in_stage : 0);

  const int64_t n = bucket.shard_end() - bucket.shard_begin();
  const int64_t writers = std::clamp<int64_t>(n / kLeast, 1, num_copies);
  // The same turn on all ranks that hold the bucket, whatever else they hold.
  const std::string& name = bucket.segments().front().parameter->name;
  const auto turn = static_cast<int64_t>(hash_bytes(name.data(), name.size()) % static_cast<uint64_t>(num_copies));
  const int64_t writer = (copy + turn) % num_copies;
  if (writer >= writers) return {};
  const auto bound = [&](int64_t i) {
    return i == writers ? bucket.shard_end() : bucket.shard_begin() + n * i / writers / kAlignment * kAlignment;
  };
  return {bound(writer), bound(writer + 1)};
}

}  // namespace

int64_t SavePiece::width() const { return dtype_bytes(buffer_of(*bucket, buffer).dtype()); }

Tensor SavePiece::elements() const {
  const int64_t first = bucket->shard_begin();
  return buffer_of(*bucket, buffer).slice(begin - first, end - first);
}

void SavePiece::for_each_stretch(int64_t from, int64_t to, const std::function<void(int64_t, int64_t)>& run) const {
  for (const BucketSegment& segment : bucket->segments()) {
    const int64_t first = std::max(from, segment.begin);
    const int64_t last = std::min(to, segment.end);
    if (first >= last) continue;
    const Parameter& parameter = *segment.parameter;
    parameter.part.for_each_run(parameter.shape, first - segment.begin, last - segment.begin,
                                [&](int64_t local, int64_t, int64_t n) { run(segment.begin + local, n); });
  }
}

SavePlan::SavePlan(const std::vector<Bucket*>& buckets, const Mesh& mesh) {
  char name[40];
  std::snprintf(name, sizeof name, "rank-%05lld.safetensors", static_cast<long long>(mesh.rank()));
  file_name_ = name;
  for (Bucket* bucket : buckets) {
    if (bucket->values_of() != nullptr) continue;
    const Range range = written_by(*bucket, mesh);
    if (range.begin >= range.end) continue;
    for (const Bucket::Buffer buffer : kStateBuffers) {
      if (buffer_of(*bucket, buffer).defined()) pieces_.push_back({bucket, buffer, range.begin, range.end});
    }
  }
  std::stable_sort(pieces_.begin(), pieces_.end(),
                   [](const SavePiece& a, const SavePiece& b) { return a.width() > b.width(); });
  for (const SavePiece& piece : pieces_) list_boxes(piece);
  make_header();
}

void SavePlan::list_boxes(const SavePiece& piece) {
  const FileDType dtype = file_dtype(piece.elements().dtype());
  for (const BucketSegment& segment : piece.bucket->segments()) {
    const int64_t first = std::max(piece.begin, segment.begin);
    const int64_t last = std::min(piece.end, segment.end);
    if (first >= last) continue;
    const Parameter& parameter = *segment.parameter;
    StoredTensor tensor{state_tensor_name(piece.buffer, parameter.name), dtype, parameter.shape, {}};
    for (const Box& box : boxes_of(parameter, first - segment.begin, last - segment.begin)) {
      tensor.boxes.push_back({0, file_bytes_, box});
      file_bytes_ += box.numel() * file_dtype_bytes(dtype);
    }
    if (!tensor.boxes.empty()) tensors_.push_back(std::move(tensor));
  }
}

// Boxes are tensors of their own in the file: "NAME" where they are the whole, else "NAME[0:64, 128:192]".
void SavePlan::make_header() {
  std::string text = "{";
  for (const StoredTensor& tensor : tensors_) {
    for (const StoredBox& box : tensor.boxes) {
      const bool whole = box.box == Box::whole(tensor.shape);
      const auto size = box.box.size.dims();
      const int64_t bytes = box.box.numel() * file_dtype_bytes(tensor.dtype);
      const nlohmann::json entry = {{"dtype", file_dtype_name(tensor.dtype)},
                                    {"shape", std::vector<int64_t>(size.begin(), size.end())},
                                    {"data_offsets", {box.offset, box.offset + bytes}}};
      text += (text.size() > 1 ? "," : "") + nlohmann::json(tensor.name + (whole ? "" : box.box.str())).dump() + ":" +
              entry.dump();
    }
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<uint64_t>(text.size());
  header_.assign(reinterpret_cast<const char*>(&length), sizeof length);
  header_ += text;
  const auto data_at = static_cast<int64_t>(header_.size());
  for (StoredTensor& tensor : tensors_) {
    for (StoredBox& box : tensor.boxes) box.offset += data_at;
  }
  file_bytes_ += data_at;
}

}  // namespace trireme
