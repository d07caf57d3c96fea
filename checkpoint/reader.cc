#include "checkpoint/reader.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

constexpr int64_t kChunksAhead = 4;

// A file of the checkpoint, mapped; of each chunk, whether its hash was found right.
struct CheckedFile {
  explicit CheckedFile(const std::string& path, const StoredFile& stored)
      : mapped(path), checked(new std::atomic<bool>[stored.chunk_hashes.size()]()) {}

  std::span<const std::byte> chunk(int64_t index) const {
    const int64_t begin = index * kHashChunkBytes;
    return mapped.bytes(begin, std::min(kHashChunkBytes, mapped.size_bytes() - begin));
  }

  MappedFile mapped;
  std::unique_ptr<std::atomic<bool>[]> checked;
};

// "NAME, NAME and 3 more" that have bytes in [begin, end) of the file.
std::string tensors_in(const Manifest& manifest, int64_t file, int64_t begin, int64_t end) {
  std::string text;
  int others = 0;
  for (const StoredTensor& tensor : manifest.tensors) {
    const int64_t width = file_dtype_bytes(tensor.dtype);
    const bool hit = std::any_of(tensor.boxes.begin(), tensor.boxes.end(), [&](const StoredBox& box) {
      return box.file == file && box.offset < end && box.offset + box.box.numel() * width > begin;
    });
    if (!hit) continue;
    if (others == 0 && text.size() < 100) {
      text += (text.empty() ? "" : ", ") + tensor.name;
    } else {
      ++others;
    }
  }
  if (text.empty()) return "the file's header";
  return others == 0 ? text : text + " and " + std::to_string(others) + " more";
}

CheckedFile open_file(const std::string& dir, const StoredFile& stored) {
  const std::string path = (fs::path(dir) / stored.name).string();
  if (!file_exists(path)) {
    throw DataError({.what = "a file of the checkpoint is missing",
                     .expected = std::to_string(stored.bytes) + " bytes",
                     .where = path,
                     .hint = "an older checkpoint"});
  }
  CheckedFile file(path, stored);
  if (file.mapped.size_bytes() != stored.bytes) {
    throw DataError({.what = "a file of the checkpoint has another size",
                     .expected = std::to_string(stored.bytes) + " bytes",
                     .found = std::to_string(file.mapped.size_bytes()),
                     .where = path,
                     .hint = "an older checkpoint"});
  }
  return file;
}

void check_chunk(const Manifest& manifest, int64_t index, const CheckedFile& file, int64_t chunk) {
  std::atomic<bool>& checked = file.checked[static_cast<size_t>(chunk)];
  if (checked.load(std::memory_order_relaxed)) return;
  // This chunk comes while the ones after it are on their way.
  const int64_t place = chunk * kHashChunkBytes;
  file.mapped.prefetch(place + kChunksAhead * kHashChunkBytes, kHashChunkBytes);
  file.mapped.populate(place, kHashChunkBytes);
  const auto bytes = file.chunk(chunk);
  const uint64_t found = hash_bytes(bytes.data(), bytes.size());
  const uint64_t expected = manifest.files[static_cast<size_t>(index)].chunk_hashes[static_cast<size_t>(chunk)];
  if (found != expected) {
    const int64_t begin = chunk * kHashChunkBytes;
    const int64_t end = begin + static_cast<int64_t>(bytes.size());
    throw DataError({.what = "a file of the checkpoint is damaged",
                     .expected = "hash " + hash_text(expected),
                     .found = hash_text(found),
                     .where = file.mapped.path() + ", chunk " + std::to_string(chunk) + " (bytes " +
                              std::to_string(begin) + " to " + std::to_string(end) + "; " +
                              tensors_in(manifest, index, begin, end) + ")",
                     .hint = "an older checkpoint"});
  }
  checked.store(true, std::memory_order_relaxed);
}

void copy_bf16(std::span<const std::byte> from, float* to) {
  for (size_t i = 0; i < from.size() / 2; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from.data() + 2 * i, 2);
    to[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
}

}  // namespace

struct CheckpointReader::Files {
  std::string dir;
  Manifest manifest;
  std::vector<CheckedFile> files;

  // The bytes of a stretch of a file, checked.
  std::span<const std::byte> bytes(int64_t index, int64_t offset, int64_t count) const {
    const CheckedFile& file = files[static_cast<size_t>(index)];
    if (count > 0) {
      for (int64_t c = offset / kHashChunkBytes; c <= (offset + count - 1) / kHashChunkBytes; ++c) {
        check_chunk(manifest, index, file, c);
      }
    }
    return file.mapped.bytes(offset, count);
  }
};

CheckpointReader::CheckpointReader(const std::string& dir) : files_(std::make_unique<Files>()) {
  files_->dir = dir;
  files_->manifest = read_manifest(dir);
  for (const StoredFile& file : files_->manifest.files) files_->files.push_back(open_file(dir, file));
}
CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

const std::string& CheckpointReader::path() const { return files_->dir; }
const Manifest& CheckpointReader::manifest() const { return files_->manifest; }

namespace {

const StoredTensor* find_tensor(const Manifest& manifest, const std::string& name) {
  const auto found = std::lower_bound(manifest.tensors.begin(), manifest.tensors.end(), name,
                                      [](const StoredTensor& tensor, const std::string& n) { return tensor.name < n; });
  return found == manifest.tensors.end() || found->name != name ? nullptr : &*found;
}

}  // namespace

bool CheckpointReader::contains(const std::string& tensor) const {
  return find_tensor(files_->manifest, tensor) != nullptr;
}

const StoredTensor& CheckpointReader::tensor(const std::string& name) const {
  if (const StoredTensor* found = find_tensor(files_->manifest, name)) return *found;
  std::vector<std::string> names;
  for (const StoredTensor& tensor : files_->manifest.tensors) names.push_back(tensor.name);
  const std::string nearest = nearest_word(name, names);
  throw DataError({.what = "the checkpoint has no tensor " + name,
                   .where = files_->dir,
                   .hint = nearest.empty() ? "`trireme checkpoint inspect` to see what it has" : nearest});
}

void CheckpointReader::read_raw(const StoredTensor& tensor, const Box& box, std::span<std::byte> out) const {
  const int64_t width = file_dtype_bytes(tensor.dtype);
  TRIREME_CHECK(static_cast<int64_t>(out.size()) == box.numel() * width);
  for (const StoredBox& stored : tensor.boxes) {
    const std::optional<Box> common = intersection(stored.box, box);
    if (!common) continue;
    // Runs that follow one another in the file, and where each begins in `out`.
    std::vector<int64_t> places;
    for_each_run(box, *common, [&](int64_t to, int64_t, int64_t) { places.push_back(to); });
    const int64_t run_in_box = common->numel() / static_cast<int64_t>(places.size());
    for_each_run(stored.box, *common, [&](int64_t from, int64_t first, int64_t n) {
      const auto bytes = files_->bytes(stored.file, stored.offset + from * width, n * width);
      // A stretch of the file may be several runs in `out`, or a part of one.
      for (int64_t done = 0; done < n;) {
        const int64_t at = first + done;
        const int64_t inside = at % run_in_box;
        const int64_t count = std::min(run_in_box - inside, n - done);
        const int64_t to = places[static_cast<size_t>(at / run_in_box)] + inside;
        std::memcpy(out.data() + to * width, bytes.data() + done * width, static_cast<size_t>(count * width));
        done += count;
      }
    });
  }
}

void CheckpointReader::read(const StoredTensor& tensor, const Box& box, std::span<float> out) const {
  if (tensor.dtype == FileDType::f32) return read_raw(tensor, box, std::as_writable_bytes(out));
  if (tensor.dtype != FileDType::bf16) {
    throw DataError({.what = "a tensor of the checkpoint has a dtype that isn't read",
                     .expected = "F32 or BF16",
                     .found = file_dtype_name(tensor.dtype),
                     .where = tensor.name + " of " + files_->dir});
  }
  std::vector<std::byte> narrow(out.size() * 2);
  read_raw(tensor, box, narrow);
  copy_bf16(narrow, out.data());
}

std::vector<std::string> CheckpointReader::verify(const std::string& dir) {
  const Manifest manifest = read_manifest(dir);
  std::vector<std::string> damage;
  for (size_t f = 0; f < manifest.files.size(); ++f) {
    const StoredFile& stored = manifest.files[f];
    try {
      const CheckedFile file = open_file(dir, stored);
      for (size_t c = 0; c < stored.chunk_hashes.size(); ++c) {
        try {
          check_chunk(manifest, static_cast<int64_t>(f), file, static_cast<int64_t>(c));
        } catch (const DataError& error) {
          damage.push_back(error.what());
        }
      }
    } catch (const DataError& error) {
      damage.push_back(error.what());
    }
  }
  return damage;
}

}  // namespace trireme
