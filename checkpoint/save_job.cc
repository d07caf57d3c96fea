#include "checkpoint/save_job.h"

#include <algorithm>
#include <filesystem>

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

constexpr int64_t kSlotBytes = int64_t{16} << 20;
constexpr int64_t kLeastSlotBytes = 4096;

}  // namespace

HostSlots::HostSlots(Stream& stream, int64_t budget_bytes)
    : stream_(stream),
      slot_bytes_(std::clamp(budget_bytes / 2, kLeastSlotBytes, kSlotBytes)),
      num_left_(std::max<int64_t>(2, budget_bytes / slot_bytes_)) {}

Tensor HostSlots::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !free_.empty() || num_left_ > 0; });
  if (free_.empty()) {
    --num_left_;
    return Tensor::empty_on_host(stream_, {slot_bytes_}, DType::u8);
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
    : plan_(plan),
      files_(files),
      directory_(directory),
      copies_(copies),
      slots_(slots) {
  copier_ = std::thread([this, ready = std::shared_ptr<Event>(compute.record())] { copy_all(*ready); });
  writer_ = std::thread([this] { write_all(); });
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

void SaveJob::copy_all(const Event& ready) {
  std::unique_ptr<Event> last;
  try {
    copies_.wait(ready);
    for (const SavePiece& piece : plan_.pieces()) {
      const Tensor elements = piece.elements();
      const int64_t step = slots_.slot_bytes() / piece.width();
      for (int64_t at = 0; at < elements.numel() && !failed(); at += step) {
        Copied copied;
        copied.slot = slots_.take();
        copied.piece = &piece;
        copied.begin = piece.begin + at;
        copied.end = piece.begin + std::min(elements.numel(), at + step);
        ops::copy_to_host(copies_, elements.slice(at, copied.end - piece.begin), copied.slot.raw());
        copied.event = copies_.record();
        std::lock_guard lock(mutex_);
        queue_.push_back(std::move(copied));
        changed_.notify_all();
      }
    }
    last = copies_.record();
  } catch (...) {
    fail(std::current_exception());
  }
  std::lock_guard lock(mutex_);
  all_copied_ = std::move(last);
  copier_done_ = true;
  changed_.notify_all();
}

void SaveJob::write(HashedFile& file, const Copied& copied) const {
  const int64_t width = copied.piece->width();
  const auto* bytes = static_cast<const std::byte*>(copied.slot.raw());
  copied.piece->for_each_stretch(copied.begin, copied.end, [&](int64_t first, int64_t n) {
    file.append({bytes + (first - copied.begin) * width, static_cast<size_t>(n * width)});
  });
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
    file->append(std::as_bytes(std::span<const char>(plan_.header())));
  });
  // After a failure the slots are still given back, so that the copier comes to its end.
  for (;;) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !queue_.empty() || copier_done_; });
    if (queue_.empty()) break;
    Copied copied = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    attempt([&] { copied.event->synchronize(); });
    attempt([&] { write(*file, copied); });
    slots_.give_back(std::move(copied.slot));
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
