#include "tests/faulty_files.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "core/error.h"
#include "core/formats/mapped_file.h"

namespace fs = std::filesystem;

namespace trireme::testing {

namespace {

bool lies_in(const std::string& path, const std::string& directory) {
  return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

// `path` after `from` became `to`.
std::string renamed(const std::string& path, const std::string& from, const std::string& to) {
  if (path == from) return to;
  return lies_in(path, from) ? to + path.substr(from.size()) : path;
}

std::optional<std::string> content_of(const std::string& path) {
  if (!fs::is_regular_file(path)) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void zero(const std::string& path) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) return;
  std::ofstream(path, std::ios::binary) << std::string(bytes, '\0');
}

}  // namespace

class FaultyFiles::File : public OutputFile {
 public:
  File(FaultyFiles& owner, std::string path, std::unique_ptr<OutputFile> file)
      : owner_(owner), path_(std::move(path)), file_(std::move(file)) {}

  void write_at(int64_t offset, std::span<const std::byte> bytes) override {
    const bool cut = owner_.begin("write", path_);
    owner_.set_dirty(path_, true);
    std::chrono::microseconds delay;
    {
      const std::lock_guard lock(owner_.mutex_);
      delay = owner_.delay_;
    }
    if (delay.count() > 0) std::this_thread::sleep_for(delay);
    file_->write_at(offset, cut ? bytes.first(bytes.size() / 2) : bytes);
    if (cut) owner_.throw_fault("write", path_);
  }
  void sync() override {
    owner_.begin("sync", path_);
    owner_.set_dirty(path_, false);
  }
  void close() override {
    owner_.begin("close", path_);
    file_->close();
  }

 private:
  FaultyFiles& owner_;
  std::string path_;
  std::unique_ptr<OutputFile> file_;
};

void FaultyFiles::set_fault(const Fault& fault) {
  const std::lock_guard lock(mutex_);
  fault_ = fault;
  fault_happened_ = false;
  operations_.clear();
}

void FaultyFiles::delay_writes(std::chrono::microseconds delay) {
  const std::lock_guard lock(mutex_);
  delay_ = delay;
}

void FaultyFiles::say_free_bytes(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  free_bytes_ = bytes;
}

int64_t FaultyFiles::num_operations() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(operations_.size());
}

bool FaultyFiles::fault_happened() const {
  const std::lock_guard lock(mutex_);
  return fault_happened_;
}

std::vector<std::string> FaultyFiles::operations() const {
  const std::lock_guard lock(mutex_);
  return operations_;
}

bool FaultyFiles::begin(const std::string& operation, const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    operations_.push_back(operation + " " + path);
    const auto number = static_cast<int64_t>(operations_.size());
    bool now = number == fault_.number;
    if (fault_.kind == Fault::Kind::power) now = number >= fault_.number;
    if (fault_.kind == Fault::Kind::full) {
      now = number >= fault_.number && operation != "close" && operation != "remove" && operation != "rename";
    }
    if (fault_.kind == Fault::Kind::none || !now) return false;
    const bool first = !fault_happened_;
    fault_happened_ = true;
    const bool may_cut = fault_.kind == Fault::Kind::cut || (fault_.kind == Fault::Kind::power && first);
    if (operation == "write" && may_cut) return true;
  }
  throw_fault(operation, path);
}

void FaultyFiles::throw_fault(const std::string& operation, const std::string& path) const {
  const std::lock_guard lock(mutex_);
  if (fault_.kind == Fault::Kind::power) throw PowerCut("the power was cut before: " + operation + " " + path);
  const int error = fault_.kind == Fault::Kind::full ? ENOSPC : fault_.error;
  throw MachineError({.what = "cannot " + operation + " (a fault on purpose)",
                      .found = errno_text(error),
                      .where = path,
                      .hint = "freeing space there, or another place"});
}

void FaultyFiles::set_dirty(const std::string& path, bool dirty) {
  const std::lock_guard lock(mutex_);
  dirty_[path] = dirty;
}

std::unique_ptr<OutputFile> FaultyFiles::create(const std::string& path) {
  begin("create", path);
  const bool is_new = !fs::exists(path);
  auto file = std::make_unique<File>(*this, path, files_.create(path));
  set_dirty(path, true);
  const std::lock_guard lock(mutex_);
  if (is_new) new_names_.push_back({path, "", std::nullopt});
  return file;
}

void FaultyFiles::make_directories(const std::string& path) {
  begin("make_directories", path);
  std::vector<std::string> missing;
  for (fs::path at = path; !at.empty() && !fs::exists(at); at = at.parent_path()) missing.push_back(at);
  files_.make_directories(path);
  const std::lock_guard lock(mutex_);
  for (auto at = missing.rbegin(); at != missing.rend(); ++at) new_names_.push_back({*at, "", std::nullopt});
}

void FaultyFiles::rename(const std::string& from, const std::string& to) {
  begin("rename", from);
  std::optional<std::string> replaced = content_of(to);
  files_.rename(from, to);
  const std::lock_guard lock(mutex_);
  std::map<std::string, bool> moved;
  for (const auto& [path, dirty] : dirty_) {
    if (path != to && !lies_in(path, to)) moved[renamed(path, from, to)] = dirty;
  }
  dirty_ = std::move(moved);
  for (NewName& name : new_names_) name.path = renamed(name.path, from, to);
  new_names_.push_back({to, from, std::move(replaced)});
}

void FaultyFiles::remove(const std::string& path) {
  begin("remove", path);
  files_.remove(path);
  const std::lock_guard lock(mutex_);
  std::erase_if(dirty_, [&](const auto& file) { return file.first == path || lies_in(file.first, path); });
  std::erase_if(new_names_, [&](const NewName& name) { return name.path == path || lies_in(name.path, path); });
}

void FaultyFiles::sync_directory(const std::string& path) {
  begin("sync_directory", path);
  if (!fs::is_directory(path)) files_.sync_directory(path);  // says what is wrong
  const std::lock_guard lock(mutex_);
  std::erase_if(new_names_, [&](const NewName& name) { return fs::path(name.path).parent_path() == fs::path(path); });
}

int64_t FaultyFiles::free_bytes(const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    if (free_bytes_ >= 0) return free_bytes_;
  }
  return files_.free_bytes(path);
}

void FaultyFiles::lose_unsynced(bool names) {
  const std::lock_guard lock(mutex_);
  for (const auto& [path, dirty] : dirty_) {
    if (dirty) zero(path);
  }
  std::error_code ignored;
  for (auto name = new_names_.rbegin(); names && name != new_names_.rend(); ++name) {
    if (name->from.empty()) {
      fs::remove_all(name->path, ignored);
      continue;
    }
    // Names that came before this one were noted as they are now.
    const std::string path = name->path;
    fs::rename(path, name->from, ignored);
    if (name->replaced) std::ofstream(path, std::ios::binary) << *name->replaced;
    for (NewName& older : new_names_) older.path = renamed(older.path, path, name->from);
  }
  dirty_.clear();
  new_names_.clear();
}

}  // namespace trireme::testing
