#include "tests/emulator/memory.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "tests/emulator/fault.h"
#include "tests/emulator/hidden.h"
#include "tests/emulator/poison.h"
#include "tests/emulator/protection.h"
#include "tests/emulator/settings.h"

namespace emulator {

namespace {

constexpr uintptr_t kArenaBytes = uintptr_t{32} << 30;  // addresses of one device
constexpr uintptr_t kPage = 4096;
constexpr uintptr_t kHugePage = 2 << 20;

constexpr uintptr_t round_up(uintptr_t n, uintptr_t unit) { return (n + unit - 1) / unit * unit; }

struct Allocation {
  size_t bytes;    // asked for
  uintptr_t end;   // of its pages
  uintptr_t next;  // where the gap behind it ends
};

// How much room an allocation takes. Large ones have huge pages and a gap without memory, small ones a page as gap.
struct Room {
  explicit Room(size_t bytes)
      : unit(bytes >= kHugePage ? kHugePage : kPage),
        accessible(bytes >= kHugePage ? round_up(bytes, kHugePage) : round_up(bytes, kPage) + kPage),
        addresses(bytes >= kHugePage ? accessible + kHugePage : accessible) {}
  uintptr_t unit;
  uintptr_t accessible;
  uintptr_t addresses;
};

// A type of our own, so that no other code's instrumented std::map is linked in this one's place.
struct End {
  uintptr_t end;
};

struct Arena {
  HiddenMutex mutex;
  std::map<uintptr_t, Allocation> living;  // by address
  std::map<uintptr_t, End> unused;         // ranges, by their begin
  uintptr_t cursor = 0;                    // where the search goes on
  size_t used_bytes = 0;
};

struct Memory {
  Memory() {
    watch_faults();
    constexpr size_t kBytes = kArenaBytes * kMaxDevices;
    void* all = reinterpret_cast<void*>(
        syscall(SYS_mmap, nullptr, kBytes + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (all == MAP_FAILED) {
      std::perror("emulator: mmap of addresses for device memory");
      std::abort();
    }
    base = (reinterpret_cast<uintptr_t>(all) + kHugePage - 1) / kHugePage * kHugePage;
    syscall(SYS_madvise, base, kBytes, MADV_DONTDUMP);
    syscall(SYS_madvise, base, kBytes, MADV_HUGEPAGE);  // less work to open and close
    for (int d = 0; d < kMaxDevices; ++d) {
      arenas[d].cursor = base + static_cast<uintptr_t>(d) * kArenaBytes;
      arenas[d].unused[arenas[d].cursor] = {arenas[d].cursor + kArenaBytes};
    }
  }

  uintptr_t base = 0;
  Arena arenas[kMaxDevices];
};

Memory& memory() {
  static Memory* all = new Memory;
  return *all;
}

struct Pinned {
  HiddenMutex mutex;
  std::map<uintptr_t, size_t> living;
};

Pinned& pinned() {
  static Pinned* all = new Pinned;
  return *all;
}

std::vector<Span> merged_spans(const Arena& arena) {
  std::vector<Span> spans;
  for (const auto& [begin, allocation] : arena.living) {
    if (!spans.empty() && spans.back().end == begin) {
      spans.back().end = allocation.end;
    } else {
      spans.push_back({begin, allocation.end});
    }
  }
  return spans;
}

// A range of addresses, the first that fits from the cursor on; 0 when there is none.
uintptr_t take_range(Arena& arena, uintptr_t bytes, uintptr_t unit) {
  using Place = std::map<uintptr_t, End>::iterator;
  auto take = [&](Place it, uintptr_t at) {
    const uintptr_t begin = it->first;
    const uintptr_t end = it->second.end;
    arena.unused.erase(it);
    if (begin < at) arena.unused[begin] = {at};
    if (at + bytes < end) arena.unused[at + bytes] = {end};
    arena.cursor = at + bytes;
    return at;
  };
  auto fits = [&](Place it, uintptr_t from) {
    const uintptr_t at = round_up(from, unit);
    return at < it->second.end && it->second.end - at >= bytes;
  };
  const Place next = arena.unused.upper_bound(arena.cursor);
  if (next != arena.unused.begin()) {
    const Place around = std::prev(next);
    if (fits(around, arena.cursor)) return take(around, round_up(arena.cursor, unit));
  }
  for (Place it = next; it != arena.unused.end(); ++it) {
    if (fits(it, it->first)) return take(it, round_up(it->first, unit));
  }
  for (Place it = arena.unused.begin(); it != next; ++it) {
    if (fits(it, it->first)) return take(it, round_up(it->first, unit));
  }
  return 0;
}

void give_range(Arena& arena, uintptr_t begin, uintptr_t end) {
  auto next = arena.unused.lower_bound(begin);
  if (next != arena.unused.end() && next->first == end) {
    end = next->second.end;
    next = arena.unused.erase(next);
  }
  if (next != arena.unused.begin() && std::prev(next)->second.end == begin) {
    std::prev(next)->second.end = end;
  } else {
    arena.unused[begin] = {end};
  }
}

}  // namespace

int pointer_device(const void* data) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(data) - memory().base;
  return offset < kArenaBytes * kMaxDevices ? static_cast<int>(offset / kArenaBytes) : -1;
}

bool is_device_range(const void* data, size_t bytes) {
  const int device = pointer_device(data);
  if (device < 0) return false;
  Arena& arena = memory().arenas[device];
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  HiddenLock lock(arena.mutex);
  auto it = arena.living.upper_bound(address);
  if (it == arena.living.begin()) return false;
  --it;
  return address - it->first <= it->second.bytes && bytes <= it->second.bytes - (address - it->first);
}

cudaError_t allocate_device(int device, size_t bytes, void** data) {
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  Arena& arena = memory().arenas[device];
  HiddenLock lock(arena.mutex);
  const int64_t limit = settings().memory_limit;
  if (bytes > kArenaBytes || static_cast<int64_t>(arena.used_bytes + bytes) > limit) return cudaErrorMemoryAllocation;
  const Room room(bytes);
  const uintptr_t begin = take_range(arena, room.addresses, room.unit);
  if (begin == 0) return cudaErrorMemoryAllocation;
  arena.living[begin] = {bytes, begin + room.accessible, begin + room.addresses};
  arena.used_bytes += bytes;
  protect_pages(device, {begin, begin + room.accessible}, merged_spans(arena));
  unpoison(begin, room.addresses);
  {
    ThreadAccess access;
    access.set(device_bit(device));
    fill_unseen(begin, room.accessible);
  }
  poison(begin + bytes, room.addresses - bytes);
  close_idle_devices();
  tallies().allocations += 1;
  tallies().allocated_bytes += static_cast<int64_t>(bytes);
  *data = reinterpret_cast<void*>(begin);
  return cudaSuccess;
}

cudaError_t free_device(void* data) {
  const int device = pointer_device(data);
  if (device < 0) return cudaErrorInvalidValue;
  Arena& arena = memory().arenas[device];
  HiddenLock lock(arena.mutex);
  auto it = arena.living.find(reinterpret_cast<uintptr_t>(data));
  if (it == arena.living.end()) return cudaErrorInvalidValue;
  const Span span{it->first, it->second.end};
  const uintptr_t next = it->second.next;
  const size_t bytes = it->second.bytes;
  arena.living.erase(it);
  arena.used_bytes -= bytes;
  release_pages(device, span, merged_spans(arena));
  unpoison(span.begin, next - span.begin);
  give_range(arena, span.begin, next);
  tallies().allocations -= 1;
  tallies().allocated_bytes -= static_cast<int64_t>(bytes);
  return cudaSuccess;
}

size_t free_device_bytes(int device) {
  Arena& arena = memory().arenas[device];
  HiddenLock lock(arena.mutex);
  const int64_t left = settings().memory_limit - static_cast<int64_t>(arena.used_bytes);
  return left > 0 ? static_cast<size_t>(left) : 0;
}

AddressText describe_device_address(uintptr_t address) {
  AddressText out;
  const int device = pointer_device(reinterpret_cast<void*>(address));
  const Arena& arena = memory().arenas[device];
  auto it = arena.living.upper_bound(address);
  if (it != arena.living.begin()) --it;
  if (it == arena.living.end() || address < it->first || address >= it->second.next) {
    std::snprintf(out.text, sizeof out.text, "cuda:%d, in no allocation (freed, or out of bounds)", device);
    return out;
  }
  const uintptr_t offset = address - it->first;
  const size_t bytes = it->second.bytes;
  if (offset < bytes) {
    std::snprintf(out.text, sizeof out.text, "cuda:%d, byte %zu of an allocation of %zu bytes", device, offset, bytes);
  } else {
    std::snprintf(out.text, sizeof out.text, "cuda:%d, %zu bytes behind an allocation of %zu bytes", device,
                  offset - bytes, bytes);
  }
  return out;
}

cudaError_t allocate_pinned(size_t bytes, void** data) {
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  // From the heap, so that the sanitizers know its bounds and when it is freed.
  void* block = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  if (block == nullptr) return cudaErrorMemoryAllocation;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(block);
  fill_unseen(begin, bytes);
  poison(begin + bytes, (kPage - bytes % kPage) % kPage);
  HiddenLock lock(pinned().mutex);
  pinned().living[begin] = bytes;
  tallies().pinned_bytes += static_cast<int64_t>(bytes);
  *data = block;
  return cudaSuccess;
}

cudaError_t free_pinned(void* data) {
  if (data == nullptr) return cudaSuccess;
  {
    HiddenLock lock(pinned().mutex);
    auto it = pinned().living.find(reinterpret_cast<uintptr_t>(data));
    if (it == pinned().living.end()) return cudaErrorInvalidValue;
    tallies().pinned_bytes -= static_cast<int64_t>(it->second);
    unpoison(it->first + it->second, (kPage - it->second % kPage) % kPage);
    pinned().living.erase(it);
  }
  std::free(data);
  return cudaSuccess;
}

bool is_pinned_range(const void* data, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  HiddenLock lock(pinned().mutex);
  auto it = pinned().living.upper_bound(address);
  if (it == pinned().living.begin()) return false;
  --it;
  return address - it->first <= it->second && bytes <= it->second - (address - it->first);
}

}  // namespace emulator
