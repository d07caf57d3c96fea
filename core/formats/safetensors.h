// safetensors: named tensors in one file, or in several with an index.
//
//   u64 header length, the header (JSON: name -> dtype, shape, data_offsets; "__metadata__" -> strings,
//   padded with spaces), the data. Offsets count from the end of the header; no gaps, no overlap.
//   Several files: DIR/model.safetensors.index.json, {"weight_map": {name: file}}.
//
// The reader maps the files and checks every header whole at opening; element bytes are touched when read.
// Thread safety: a reader is const and may be used by any number of threads; a writer by one.
// Errors: DataError that names the file and tensor; MachineError when writing fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/formats/atomic_file.h"
#include "core/formats/file_dtype.h"
#include "core/formats/mapped_file.h"

namespace trireme {

struct TensorSpec {
  std::string name;
  FileDType dtype = FileDType::f32;
  std::vector<int64_t> shape;

  int64_t numel() const;
  int64_t bytes() const { return numel() * file_dtype_bytes(dtype); }
};

class SafetensorsReader {
 public:
  // A .safetensors file, a model.safetensors.index.json, or a directory that holds one or the other.
  explicit SafetensorsReader(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  const std::string& path() const { return path_; }
  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  // DataError that names the nearest tensor when there is none of this name.
  const TensorSpec& spec(const std::string& name) const;
  // The file that holds the tensor, for messages.
  const std::string& file_of(const std::string& name) const;
  // "__metadata__" of all files together.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // The raw elements, little-endian, not necessarily aligned.
  std::span<const std::byte> bytes(const std::string& name) const;
  // Elements [begin, begin + out.size()) converted. Floats come from F32, BF16, F16 and F64, integers from
  // I32, I64 and U8; DataError otherwise. REQUIRES: the range lies in the tensor.
  void read(const std::string& name, int64_t begin, std::span<float> out) const;
  void read(const std::string& name, int64_t begin, std::span<double> out) const;
  void read(const std::string& name, int64_t begin, std::span<int64_t> out) const;

 private:
  struct Entry {
    TensorSpec spec;
    size_t file;
    int64_t offset;  // from the beginning of the file
  };
  void add_file(const std::string& path, std::map<std::string, Entry>& found);
  void add_index(const std::string& index_path);
  const Entry& entry(const std::string& name) const;
  template <class T>
  void read_as(const std::string& name, int64_t begin, std::span<T> out) const;

  std::string path_;
  std::vector<MappedFile> files_;
  std::map<std::string, Entry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// What a file begins with: the header's length and the header. The tensors' data follow in the order given, without gaps.
std::string safetensors_header(const std::vector<TensorSpec>& tensors,
                               const std::map<std::string, std::string>& metadata = {});

// Writes one file under a temporary name and renames it when finished. The header is fixed at the beginning;
// the bytes of the tensors may then come in any order and in pieces. In the file tensors stand in the order
// given, those with wider elements first, so that each is aligned to its element.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {}, FileSystem& files = local_files());

  // The next bytes of a tensor. REQUIRES: the name is in the list; no more than its size in all.
  void write(const std::string& name, std::span<const std::byte> bytes);
  template <class T>
  void write_values(const std::string& name, std::span<const T> values) {
    write(name, std::as_bytes(values));
  }
  // REQUIRES: every tensor has been written whole.
  void finish();

  int64_t size_bytes() const { return size_bytes_; }

 private:
  struct Slot {
    int64_t offset;
    int64_t bytes;
    int64_t written = 0;
  };
  AtomicFile file_;
  std::map<std::string, Slot> slots_;
  int64_t size_bytes_ = 0;
};

}  // namespace trireme
