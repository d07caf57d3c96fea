// manifest.json of a checkpoint: where the run stands and a hash of every 4 MiB of every file. It is written last and
// ends with a hash of itself; a directory without a valid one is no checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

inline constexpr int64_t kManifestVersion = 1;
inline constexpr int64_t kHashChunkBytes = int64_t{4} << 20;

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  std::vector<std::string> chunk_hashes;  // XXH3 64-bit, hexadecimal, of each 4 MiB
};

struct Manifest {
  int64_t step = 0;
  int64_t consumed_samples = 0;
  std::string config_yaml;
  std::vector<ManifestFile> files;
};

// Writes DIR/manifest.json by rename. MachineError when that fails.
void write_manifest(const std::string& dir, const Manifest& manifest);
// DataError when it is missing, damaged, or of a newer format version.
Manifest read_manifest(const std::string& dir);

// Size and hashes of a file.
ManifestFile hash_file(const std::string& path);
// DataError that names the file and the chunk when DIR/name is not what the manifest says.
void check_file(const std::string& dir, const Manifest& manifest, const std::string& name);

// Makes renames inside `dir` survive a crash of the machine.
void flush_directory(const std::string& dir);

}  // namespace trireme
