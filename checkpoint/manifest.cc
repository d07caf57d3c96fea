#include "checkpoint/manifest.h"

#include <fcntl.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/formats/atomic_file.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace trireme {

namespace {

std::string hex_hash(const void* data, size_t bytes) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(XXH3_64bits(data, bytes)));
  return text;
}

std::string manifest_path(const std::string& dir) { return (fs::path(dir) / "manifest.json").string(); }

}  // namespace

void write_manifest(const std::string& dir, const Manifest& manifest) {
  json files = json::array();
  for (const ManifestFile& file : manifest.files) {
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"chunks", file.chunk_hashes}});
  }
  json root = {{"format", "trireme checkpoint"}, {"format_version", kManifestVersion},
               {"step", manifest.step},          {"consumed_samples", manifest.consumed_samples},
               {"config", manifest.config_yaml}, {"files", files}};
  const std::string body = root.dump();
  root["hash"] = hex_hash(body.data(), body.size());
  const std::string text = root.dump(1) + "\n";
  AtomicFile file(manifest_path(dir));
  file.append(std::as_bytes(std::span<const char>(text)));
  file.commit();
}

Manifest read_manifest(const std::string& dir) {
  const std::string path = manifest_path(dir);
  const MappedFile mapped(path);
  const auto bytes = mapped.bytes(0, mapped.size_bytes());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  try {
    json root = json::parse(text);
    const int64_t version = root.at("format_version").get<int64_t>();
    if (version > kManifestVersion) {
      throw DataError({.what = "the checkpoint's format is newer than this program",
                       .expected = "format version " + std::to_string(kManifestVersion) + " at most",
                       .found = std::to_string(version),
                       .where = path,
                       .hint = "a newer trireme"});
    }
    const std::string stored = root.at("hash").get<std::string>();
    root.erase("hash");
    const std::string body = root.dump();
    const std::string computed = hex_hash(body.data(), body.size());
    if (stored != computed) {
      throw DataError({.what = "the checkpoint's manifest is damaged",
                       .expected = "hash " + stored,
                       .found = computed,
                       .where = path,
                       .hint = "an older checkpoint"});
    }
    Manifest manifest;
    manifest.step = root.at("step").get<int64_t>();
    manifest.consumed_samples = root.at("consumed_samples").get<int64_t>();
    manifest.config_yaml = root.at("config").get<std::string>();
    for (const json& entry : root.at("files")) {
      manifest.files.push_back({entry.at("name").get<std::string>(), entry.at("bytes").get<int64_t>(),
                                entry.at("chunks").get<std::vector<std::string>>()});
    }
    return manifest;
  } catch (const json::exception& error) {
    throw DataError({.what = std::string("the checkpoint's manifest can't be read: ") + error.what(),
                     .where = path,
                     .hint = "an older checkpoint"});
  }
}

ManifestFile hash_file(const std::string& path) {
  const MappedFile mapped(path);
  ManifestFile file;
  file.name = fs::path(path).filename().string();
  file.bytes = mapped.size_bytes();
  for (int64_t begin = 0; begin < file.bytes; begin += kHashChunkBytes) {
    const auto chunk = mapped.bytes(begin, std::min(kHashChunkBytes, file.bytes - begin));
    file.chunk_hashes.push_back(hex_hash(chunk.data(), chunk.size()));
  }
  return file;
}

void check_file(const std::string& dir, const Manifest& manifest, const std::string& name) {
  const auto expected = std::find_if(manifest.files.begin(), manifest.files.end(),
                                     [&](const ManifestFile& file) { return file.name == name; });
  const std::string path = (fs::path(dir) / name).string();
  if (expected == manifest.files.end()) {
    throw DataError({.what = "the checkpoint's manifest lacks a file", .expected = name, .where = manifest_path(dir)});
  }
  const ManifestFile found = hash_file(path);
  if (found.bytes != expected->bytes) {
    throw DataError({.what = "a file of the checkpoint has another size",
                     .expected = std::to_string(expected->bytes) + " bytes",
                     .found = std::to_string(found.bytes),
                     .where = path,
                     .hint = "an older checkpoint"});
  }
  for (size_t i = 0; i < found.chunk_hashes.size(); ++i) {
    if (found.chunk_hashes[i] == expected->chunk_hashes[i]) continue;
    throw DataError({.what = "a file of the checkpoint is damaged",
                     .expected = "hash " + expected->chunk_hashes[i],
                     .found = found.chunk_hashes[i],
                     .where = path + ", chunk " + std::to_string(i) + " (bytes from " +
                              std::to_string(static_cast<int64_t>(i) * kHashChunkBytes) + ")",
                     .hint = "an older checkpoint"});
  }
}

void flush_directory(const std::string& dir) {
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace trireme
