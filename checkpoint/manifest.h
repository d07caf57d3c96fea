// manifest.json of a checkpoint: where the run stands, which file holds which boxes of which tensor, and a hash of every
// 4 MiB of every file (README.md). It is written last and ends with a hash of itself; a directory without a valid one is
// no checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "core/formats/file_dtype.h"
#include "core/formats/file_system.h"

namespace trireme {

inline constexpr int64_t kManifestVersion = 2;
inline constexpr int64_t kHashChunkBytes = int64_t{4} << 20;

// XXH3, 64 bits.
uint64_t hash_bytes(const void* data, size_t bytes);
std::string hash_text(uint64_t hash);  // 16 hexadecimal digits

struct StoredFile {
  std::string name;  // in the checkpoint's directory
  int64_t bytes = 0;
  std::vector<uint64_t> chunk_hashes;  // of each 4 MiB
};

struct StoredBox {
  int64_t file = 0;    // index in Manifest::files
  int64_t offset = 0;  // of its first byte, from the beginning of the file
  Box box;
};

// A logical tensor. Its boxes don't overlap and cover it.
struct StoredTensor {
  std::string name;
  FileDType dtype = FileDType::f32;
  Shape shape;
  std::vector<StoredBox> boxes;

  int64_t bytes() const { return shape.numel() * file_dtype_bytes(dtype); }
};

struct Manifest {
  int64_t step = 0;                   // finished updates
  int64_t consumed_samples = 0;       // sequences that they took; where the data continues
  int64_t seed = 0;                   // of every random number (Philox 4x32-10, a pure function of seed, name and step)
  std::string layout;                 // for people: "data 2 × tensor 4 = 8 ranks, zero 1"
  std::string config_yaml;            // the resolved configuration
  std::vector<StoredTensor> tensors;  // by name
  std::vector<StoredFile> files;
};

// What one rank adds to a manifest, as text between ranks: its file, and the boxes that this file (number 0) holds.
std::string pack_share(const StoredFile& file, const std::vector<StoredTensor>& tensors);
// Appends it. REQUIRES: ranks agree on the tensors' shapes and dtypes.
void add_share(Manifest& manifest, const std::string& share);

// BugError where the boxes of a tensor don't cover it once.
void check_cover(const Manifest& manifest);

// Writes DIR/manifest.json by rename. MachineError when that fails.
void write_manifest(FileSystem& files, const std::string& dir, const Manifest& manifest);
// DataError that says what is wrong when it is missing, damaged, of another format version, or contradicts itself (a box
// outside of its tensor or file, tensors not covered).
Manifest read_manifest(const std::string& dir);

}  // namespace trireme
