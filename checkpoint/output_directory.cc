#include "checkpoint/output_directory.h"

#include <filesystem>

#include "core/error.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

// Without the slash at the end, which would put the temporary directory inside.
std::string plain_path(const std::string& path) {
  const fs::path normal = fs::path(path).lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).string();
}

std::string parent_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

OutputDirectory::OutputDirectory(FileSystem& files, const std::string& path)
    : files_(files), path_(plain_path(path)), temporary_(path_ + ".tmp") {
  std::error_code error;
  const bool there = fs::exists(path_, error);
  if (there && !(fs::is_directory(path_, error) && fs::is_empty(path_, error))) {
    throw ConfigError({.what = "the directory to write is there already, and not empty",
                       .expected = "a new or an empty directory",
                       .where = path_,
                       .hint = "another place, or removing it first"});
  }
  files_.make_directories(parent_of(path_));
  files_.remove(temporary_);
  files_.make_directories(temporary_);
}

OutputDirectory::~OutputDirectory() {
  if (committed_) return;
  try {
    files_.remove(temporary_);
  } catch (const Error&) {
    // The error that brought us here says more.
  }
}

void OutputDirectory::write_text(const std::string& name, std::string_view text) {
  const auto file = files_.create((fs::path(temporary_) / name).string());
  file->write_at(0, std::as_bytes(std::span(text)));
  file->sync();
  file->close();
}

void OutputDirectory::commit() {
  files_.sync_directory(temporary_);
  files_.rename(temporary_, path_);
  committed_ = true;
  files_.sync_directory(parent_of(path_));
}

}  // namespace trireme
