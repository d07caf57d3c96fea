// A checkpoint opened for reading: boxes of logical tensors, from whatever layout wrote them.
//
// Files are mapped; a chunk of 4 MiB is checked against its hash when it is first touched, so that a rank reads and
// verifies what it needs and nothing else.
// Thread safety: a reader is const and may be used by any number of threads.
// Errors: DataError that names the file, the chunk, what was expected and what was found.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace trireme {

class CheckpointReader {
 public:
  // Reads the manifest; checks that every file is there with its size.
  explicit CheckpointReader(const std::string& dir);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  const std::string& path() const;
  const Manifest& manifest() const;
  bool contains(const std::string& tensor) const;
  // DataError that names the nearest tensor when there is none of this name.
  const StoredTensor& tensor(const std::string& name) const;

  // The elements of a box, row-major. REQUIRES: the box lies in the tensor, out.size() is its number of elements (times
  // the width of the dtype, raw).
  void read(const StoredTensor& tensor, const Box& box, std::span<float> out) const;
  void read_raw(const StoredTensor& tensor, const Box& box, std::span<std::byte> out) const;

  // What is wrong with each missing or damaged file or chunk of a checkpoint, one message for each that names the tensors
  // it hits; none when every byte is as it was written. DataError where there is no valid manifest.
  static std::vector<std::string> verify(const std::string& dir);

 private:
  struct Files;
  std::unique_ptr<Files> files_;
};

}  // namespace trireme
