// Memory of one rank on one device: a caching allocator that counts, by tag, what is alive.
//
// Freed blocks are kept and given out again (best fit among cached blocks of at most 1.25 times the
// size), so that a training step in its steady state asks the system for nothing: `system_allocations`
// stays constant from step 3 on, which tests read. On a GPU a freed block may be given out while queued work still uses
// it: its next user's work is queued behind, on the same stream. Work on other streams keeps its tensors alive itself.
// Thread safety: all calls may come from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/device/device.h"

namespace trireme {

// What a block of memory is for; the tally per tag is what `train` and `plan` print.
enum class MemoryTag : uint8_t { parameters, gradients, optimizer, activations, workspace, communication };
inline constexpr int kNumMemoryTags = 6;
std::string memory_tag_name(MemoryTag tag);

struct MemoryStats {
  std::array<int64_t, kNumMemoryTags> live_bytes{};  // requested sizes, without rounding
  int64_t total_live_bytes = 0;
  int64_t peak_live_bytes = 0;
  int64_t reserved_bytes = 0;      // held from the system, cached blocks included
  int64_t system_allocations = 0;  // calls into the system so far
};

class Allocator;

// A block; returned to its allocator when the last owner lets go. The allocator must outlive it.
class Storage {
 public:
  Storage(Allocator& allocator, void* data, int64_t capacity_bytes, int64_t bytes, MemoryTag tag);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  int64_t bytes() const { return bytes_; }
  Allocator& allocator() const { return allocator_; }

 private:
  friend class Allocator;
  Allocator& allocator_;
  void* data_;
  int64_t capacity_bytes_;
  int64_t bytes_;
  MemoryTag tag_;
};

class Allocator {
 public:
  explicit Allocator(Device device) : device_(device) {}
  virtual ~Allocator() = default;
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  Device device() const { return device_; }

  // A block of at least `bytes`, aligned to 256 bytes, contents undefined. Throws MachineError that
  // names the tag, the size and what is alive when the system has no more.
  std::shared_ptr<Storage> allocate(int64_t bytes, MemoryTag tag);

  MemoryStats stats() const;

 protected:
  // The device's own calls. `system_allocate` returns nullptr when there is no memory.
  virtual void* system_allocate(int64_t bytes) = 0;
  virtual void system_free(void* data, int64_t bytes) = 0;
  // Derived destructors must call this: it gives the cached blocks back.
  // (`allocate` calls it, under the lock, before it gives up.)
  void release_cached();

 private:
  friend class Storage;
  void release(Storage& storage);

  Device device_;
  mutable std::mutex mutex_;
  std::multimap<int64_t, void*> cached_;  // capacity -> block
  MemoryStats stats_;
};

class CpuAllocator final : public Allocator {
 public:
  CpuAllocator() : Allocator(Device{}) {}
  ~CpuAllocator() override { release_cached(); }

 protected:
  void* system_allocate(int64_t bytes) override;
  void system_free(void* data, int64_t bytes) override;
};

}  // namespace trireme
