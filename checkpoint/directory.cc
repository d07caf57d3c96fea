#include "checkpoint/directory.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

constexpr std::string_view kPrefix = "step-";

// REQUIRES: a path that `named_like_checkpoints` gave.
int64_t step_of(const fs::path& path) { return std::stoll(path.filename().string().substr(kPrefix.size())); }

// Names like step-00000100 in the directory, newest first.
std::vector<fs::path> named_like_checkpoints(const std::string& run_dir) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_directory(run_dir), error)) {
    const std::string name = entry.path().filename().string();
    const std::string_view digits = std::string_view(name).substr(std::min(name.size(), kPrefix.size()));
    if (name.starts_with(kPrefix) && digits.size() >= 8 && digits.size() <= 18 &&
        digits.find_first_not_of("0123456789") == std::string_view::npos) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    const auto& x = a.native();
    const auto& y = b.native();
    return x.size() != y.size() ? x.size() > y.size() : x > y;
  });
  return found;
}

}  // namespace

std::string checkpoints_directory(const std::string& run_dir) { return (fs::path(run_dir) / "checkpoints").string(); }

std::string checkpoint_path(const std::string& run_dir, int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return (fs::path(checkpoints_directory(run_dir)) / name).string();
}

bool is_checkpoint(const std::string& path) {
  return fs::path(path).extension().empty() && file_exists((fs::path(path) / "manifest.json").string());
}

std::vector<std::string> list_checkpoints(const std::string& run_dir, std::vector<std::string>* skipped) {
  std::vector<std::string> found;
  for (const fs::path& path : named_like_checkpoints(run_dir)) {
    try {
      CheckpointReader{path.string()};
      found.push_back(path.string());
    } catch (const Error& error) {
      if (skipped != nullptr) skipped->push_back(error.what());
    }
  }
  return found;
}

std::optional<std::string> latest_checkpoint(const std::string& run_dir) {
  for (const fs::path& path : named_like_checkpoints(run_dir)) {
    try {
      CheckpointReader{path.string()};
      return path.string();
    } catch (const Error&) {
      // Not a valid checkpoint: it does not exist for `latest`.
    }
  }
  return std::nullopt;
}

void prune_checkpoints(FileSystem& files, const std::string& run_dir, int64_t keep_last, int64_t keep_every) {
  if (keep_last == 0) return;
  const std::vector<std::string> found = list_checkpoints(run_dir);
  for (size_t i = static_cast<size_t>(keep_last); i < found.size(); ++i) {
    if (keep_every > 0 && step_of(found[i]) % keep_every == 0) continue;
    const std::string aside = found[i] + ".tmp";
    files.rename(found[i], aside);
    files.remove(aside);
  }
}

std::vector<std::string> set_aside_later_checkpoints(FileSystem& files, const std::string& run_dir, int64_t step,
                                                     const std::string& from) {
  std::vector<std::string> moved;
  for (const fs::path& path : named_like_checkpoints(run_dir)) {
    std::error_code error;
    if (step_of(path) < step || (!from.empty() && fs::equivalent(path, from, error))) continue;
    std::string aside;
    for (int i = 0; aside.empty() || fs::exists(aside); ++i) {
      aside = path.string() + ".aside" + (i == 0 ? "" : "-" + std::to_string(i));
    }
    files.rename(path.string(), aside);
    moved.push_back(aside);
  }
  return moved;
}

void remove_leftovers(FileSystem& files, const std::string& run_dir) {
  std::vector<std::string> leftovers;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_directory(run_dir), error)) {
    if (entry.path().extension() == ".tmp") leftovers.push_back(entry.path().string());
  }
  for (const std::string& path : leftovers) files.remove(path);
}

}  // namespace trireme
