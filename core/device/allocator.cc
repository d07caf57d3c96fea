#include "core/device/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <initializer_list>

#include "core/device/cuda/cuda_device.h"
#include "core/device/out_of_memory.h"
#include "core/metrics/format.h"

namespace trireme {

namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t sum_of(const MemoryStats& stats, std::initializer_list<MemoryTag> tags) {
  int64_t bytes = 0;
  for (const MemoryTag tag : tags) bytes += stats.live_bytes[static_cast<size_t>(tag)];
  return bytes;
}

// "parameters 1.2 GiB, gradients 2.4 GiB alive, 4.0 GiB held of the GPU's 79.1 GiB"
std::string what_is_held(Device device, const MemoryStats& stats) {
  std::string text;
  for (int i = 0; i < kNumMemoryTags; ++i) {
    const int64_t bytes = stats.live_bytes[static_cast<size_t>(i)];
    if (bytes > 0) text += memory_tag_name(static_cast<MemoryTag>(i)) + " " + human_bytes(bytes) + ", ";
  }
  text = text.empty() ? "nothing alive, " : text.substr(0, text.size() - 2) + " alive, ";
  text += human_bytes(stats.reserved_bytes) + " held";
  if (device.type != DeviceType::cuda) return text;
  return text + " of the GPU's " + human_bytes(cuda::device_info(device.index).memory_bytes) +
         "; other programs on it may hold the rest";
}

// What stays from step to step is made smaller by other means than what a microbatch needs.
std::string what_to_change(MemoryTag tag, const MemoryStats& stats) {
  using enum MemoryTag;
  const int64_t lasting = sum_of(stats, {parameters, gradients, optimizer});
  const bool lasts = tag == parameters || tag == gradients || tag == optimizer;
  if (lasts || 2 * lasting > stats.total_live_bytes) {
    return "more ranks with parallel.zero: 2 or 3, parallel.tensor or parallel.pipeline, or "
           "precision.optimizer_states: "
           "bf16; a smaller batch.micro and recompute.mode: full where activations are in the way";
  }
  return "a smaller batch.micro, recompute.mode: full, or more ranks";
}

int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Sizes are rounded so that slightly different requests share cached blocks.
int64_t capacity_for(int64_t bytes) {
  if (bytes <= 4096) return round_up(std::max<int64_t>(bytes, 1), kAlignment);
  if (bytes <= kHugePage) return round_up(bytes, 4096);
  return round_up(bytes, kHugePage);
}

}  // namespace

std::string memory_tag_name(MemoryTag tag) {
  switch (tag) {
    case MemoryTag::parameters: return "parameters";
    case MemoryTag::gradients: return "gradients";
    case MemoryTag::optimizer: return "optimizer states";
    case MemoryTag::activations: return "activations";
    case MemoryTag::workspace: return "workspace";
    case MemoryTag::communication: return "communication";
  }
  return "?";
}

Storage::Storage(Allocator& allocator, void* data, int64_t capacity_bytes, int64_t bytes, MemoryTag tag)
    : allocator_(allocator), data_(data), capacity_bytes_(capacity_bytes), bytes_(bytes), tag_(tag) {}

Storage::~Storage() { allocator_.release(*this); }

std::shared_ptr<Storage> Allocator::allocate(int64_t bytes, MemoryTag tag) {
  TRIREME_CHECK(bytes >= 0);
  const int64_t capacity = capacity_for(bytes);
  std::lock_guard lock(mutex_);
  void* data = nullptr;
  int64_t got = capacity;
  const auto cached = cached_.lower_bound(capacity);
  if (cached != cached_.end() && cached->first <= capacity + capacity / 4) {
    got = cached->first;
    data = cached->second;
    cached_.erase(cached);
  } else {
    data = system_allocate(capacity);
    if (data == nullptr && !cached_.empty()) {
      // Sizes that were used once and never again may hold what is missing.
      release_cached();
      data = system_allocate(capacity);
    }
    if (data == nullptr) {
      throw OutOfMemory(
          {.what = device_.str() + " is out of memory: " + std::to_string(bytes) + " bytes for " + memory_tag_name(tag),
           .found = what_is_held(device_, stats_),
           .hint = what_to_change(tag, stats_)});
    }
    stats_.reserved_bytes += capacity;
    ++stats_.system_allocations;
  }
  stats_.live_bytes[static_cast<size_t>(tag)] += bytes;
  stats_.total_live_bytes += bytes;
  stats_.peak_live_bytes = std::max(stats_.peak_live_bytes, stats_.total_live_bytes);
  return std::make_shared<Storage>(*this, data, got, bytes, tag);
}

void Allocator::release(Storage& storage) {
  std::lock_guard lock(mutex_);
  stats_.live_bytes[static_cast<size_t>(storage.tag_)] -= storage.bytes_;
  stats_.total_live_bytes -= storage.bytes_;
  cached_.emplace(storage.capacity_bytes_, storage.data_);
}

void Allocator::release_cached() {
  for (const auto& [capacity, data] : cached_) {
    system_free(data, capacity);
    stats_.reserved_bytes -= capacity;
  }
  cached_.clear();
}

MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void* CpuAllocator::system_allocate(int64_t bytes) {
  if (bytes < kHugePage)
    return std::aligned_alloc(static_cast<size_t>(kAlignment), static_cast<size_t>(round_up(bytes, kAlignment)));
  // Large blocks are mapped, so that the kernel can back them with huge pages.
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return data;
}

void CpuAllocator::system_free(void* data, int64_t bytes) {
  if (bytes < kHugePage) {
    std::free(data);
  } else {
    ::munmap(data, static_cast<size_t>(bytes));
  }
}

}  // namespace trireme
