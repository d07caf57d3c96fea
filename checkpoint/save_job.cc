#include "checkpoint/save_job.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <system_error>

#include "core/error.h"
#include "core/ops/elementwise.h"

namespace trireme {

HostSlots::HostSlots(Stream& stream, int64_t slot_bytes, int64_t budget_bytes)
    : stream_(stream), slot_bytes_(slot_bytes), num_left_(std::max<int64_t>(2, budget_bytes / slot_bytes)) {}

Tensor HostSlots::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !free_.empty() || num_left_ > 0; });
  if (free_.empty()) {
    Tensor slot = Tensor::empty_on_host(stream_, {slot_bytes_}, DType::u8);
    --num_left_;  // not where the memory is refused, or later saves would wait for a slot that never was
    return slot;
  }
  Tensor slot = std::move(free_.back());
  free_.pop_back();
  return slot;
}

void HostSlots::give_back(Tensor slot) {
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(slot));
  changed_.notify_all();
}

SaveJob::SaveJob(const SavePlan& plan, FileSystem& files, const std::string& directory, Stream& compute, Stream& copies,
                 HostSlots& slots)
    : plan_(plan), files_(files), directory_(directory), copies_(copies), slots_(slots) {
  const std::shared_ptr<Event> ready = compute.record();
  try {
    writer_ = std::thread([this] { write_all(); });
    copier_ = std::thread([this, ready] { copy_all(*ready); });
  } catch (const std::system_error& error) {
    fail(std::make_exception_ptr(MachineError({.what = "cannot start a thread that saves", .found = error.what()})));
    std::lock_guard lock(mutex_);
    copier_done_ = true;
    writer_done_ = !writer_.joinable();
    changed_.notify_all();
  }
}

SaveJob::~SaveJob() {
  if (copier_.joinable()) copier_.join();
  if (writer_.joinable()) writer_.join();
}

void SaveJob::fail(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  if (!error_) error_ = std::move(error);
  changed_.notify_all();
}

bool SaveJob::failed() const {
  std::lock_guard lock(mutex_);
  return error_ != nullptr;
}

void SaveJob::hand_over(Chunk& chunk) {
  if (chunk.bytes == 0) return;
  if (hash_) chunk.hash = hash_->take();
  chunk.copied = copies_.record();
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(chunk));
  chunk = {};
  changed_.notify_all();
}

// The header, then what of the pieces isn't padding. Elements don't straddle chunks: wider ones come first (SavePlan).
void SaveJob::copy_pieces(Chunk& chunk) {
  // Calls copy(offset, n, where to) for parts of `bytes` that fit into a slot.
  const auto fill = [&](int64_t bytes, const std::function<void(int64_t, int64_t, void*)>& copy) {
    for (int64_t done = 0; done < bytes && !failed();) {
      if (!chunk.slot.defined()) chunk.slot = slots_.take();
      const int64_t n = std::min(bytes - done, slots_.slot_bytes() - chunk.bytes);
      copy(done, n, static_cast<std::byte*>(chunk.slot.raw()) + chunk.bytes);
      chunk.bytes += n;
      done += n;
      if (chunk.bytes == slots_.slot_bytes()) hand_over(chunk);
    }
  };
  if (copies_.device().type == DeviceType::cpu) hash_.emplace();
  const std::string& header = plan_.header();
  fill(std::ssize(header), [&](int64_t from, int64_t n, void* to) {
    if (hash_) return hash_->copy(header.data() + from, to, n);
    std::memcpy(to, header.data() + from, static_cast<size_t>(n));
  });
  for (const SavePiece& piece : plan_.pieces()) {
    const Tensor elements = piece.elements();
    const int64_t width = piece.width();
    piece.for_each_stretch(piece.begin, piece.end, [&](int64_t first, int64_t count) {
      fill(count * width, [&](int64_t from, int64_t n, void* to) {
        const int64_t begin = first - piece.begin + from / width;
        const Tensor part = elements.slice(begin, begin + n / width);
        if (hash_) return hash_->copy(part.raw(), to, n);
        ops::copy_to_host(copies_, part, to);
      });
    });
  }
  hand_over(chunk);
}

// A chunk that won't be written, after a failure.
void SaveJob::give_up(Chunk& chunk) {
  try {
    copies_.synchronize();
  } catch (...) {
    fail(std::current_exception());
  }
  slots_.give_back(std::move(chunk.slot));
}

void SaveJob::copy_all(const Event& ready) {
  std::unique_ptr<Event> last;
  Chunk chunk;
  try {
    copies_.wait(ready);
    copy_pieces(chunk);
    last = copies_.record();
  } catch (...) {
    fail(std::current_exception());
  }
  if (chunk.slot.defined()) give_up(chunk);
  std::lock_guard lock(mutex_);
  all_copied_ = std::move(last);
  copier_done_ = true;
  changed_.notify_all();
}

void SaveJob::write_all() {
  std::optional<HashedFile> file;
  const auto attempt = [&](auto&& work) {
    if (failed()) return;
    try {
      work();
    } catch (...) {
      fail(std::current_exception());
    }
  };
  attempt([&] {
    files_.make_directories(directory_);
    file.emplace(files_, (std::filesystem::path(directory_) / plan_.file_name()).string());
  });
  // After a failure the slots are still given back, so that the copier comes to its end.
  for (;;) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !queue_.empty() || copier_done_; });
    if (queue_.empty()) break;
    Chunk chunk = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    try {
      chunk.copied->synchronize();  // after a failure too: the next user of the slot writes to it
    } catch (...) {
      fail(std::current_exception());
    }
    attempt([&] {
      file->append({static_cast<const std::byte*>(chunk.slot.raw()), static_cast<size_t>(chunk.bytes)}, chunk.hash);
    });
    slots_.give_back(std::move(chunk.slot));
  }
  StoredFile stored;
  attempt([&] { stored = file->finish(); });
  std::lock_guard lock(mutex_);
  stored_ = std::move(stored);
  writer_done_ = true;
  changed_.notify_all();
}

void SaveJob::wait_copied(Stream& compute) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return copier_done_; });
  if (all_copied_) compute.wait(*all_copied_);
}

bool SaveJob::done() const {
  std::lock_guard lock(mutex_);
  return writer_done_;
}

StoredFile SaveJob::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return writer_done_; });
  if (error_) std::rethrow_exception(error_);
  return stored_;
}

}  // namespace trireme
