#include "tests/emulator/protection.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "tests/emulator/hidden.h"

namespace emulator {

namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

// Plain system calls: sanitizers would note accesses to the whole range.
void change_pages(Span span, int rights, int key) {
  const long failed = key < 0 ? syscall(SYS_mprotect, span.begin, span.end - span.begin, rights)
                              : syscall(SYS_pkey_mprotect, span.begin, span.end - span.begin, rights, key);
  if (failed != 0) {
    std::perror("emulator: mprotect of device memory");
    std::abort();
  }
}

uint32_t read_rights() {
  uint32_t rights = 0;
  asm volatile(".byte 0x0f, 0x01, 0xee" : "=a"(rights) : "c"(0) : "rdx");  // rdpkru
  return rights;
}

void write_rights(uint32_t rights) {
  asm volatile(".byte 0x0f, 0x01, 0xef" : : "a"(rights), "c"(0), "d"(0) : "memory");  // wrpkru
}

struct DeviceState {
  // Pages mode. A thread that wants in counts itself, then looks whether the device is closed; one that closes says so,
  // then looks whether anybody has counted himself: one of the two sees the other.
  std::atomic<int> num_holders{0};
  std::atomic<bool> closed{true};
  HiddenMutex mutex;
  std::vector<Span> spans;
  int key = -1;
};

struct State {
  State() {
    for (DeviceState& device : devices) {
      // No rights for this thread. Others, and those that start later, have none either: that is how Linux starts a
      // process and a thread inherits.
      device.key = static_cast<int>(syscall(SYS_pkey_alloc, 0, /*PKEY_DISABLE_ACCESS=*/1));
      if (device.key < 0 && &device == devices) {
        mode = Protection::pages;
        return;
      }
      // There are 15 keys: the last devices share one.
      if (device.key < 0) device.key = (&device - 1)->key;
    }
  }

  Protection mode = Protection::keys;
  DeviceState devices[kMaxDevices];
};

State& state() {
  static State* all = new State;
  return *all;
}

void set_open(DeviceState& device, bool open) {
  for (const Span& span : device.spans) change_pages(span, open ? kReadWrite : PROT_NONE, -1);
}

void enter(DeviceState& device) {
  device.num_holders.fetch_add(1);
  if (!device.closed.load()) return;
  HiddenLock lock(device.mutex);
  if (!device.closed.load()) return;
  set_open(device, true);
  device.closed.store(false);
}

void close_if_idle(DeviceState& device) {
  if (device.closed.load() || device.num_holders.load() != 0) return;
  HiddenLock lock(device.mutex);
  if (device.closed.exchange(true)) return;
  if (device.num_holders.load() != 0) {
    device.closed.store(false);
  } else {
    set_open(device, false);
  }
}

}  // namespace

Protection protection() { return state().mode; }

void ThreadAccess::set(DeviceMask devices) {
  State& s = state();
  if (s.mode == Protection::keys) {
    if (saved_ && held_ == devices) return;
    const uint32_t rights = read_rights();
    if (!saved_) {
      saved_rights_ = rights;
      saved_ = true;
    }
    uint32_t now = saved_rights_;
    for (int d = 0; d < kMaxDevices; ++d) {
      if (devices & device_bit(d)) now &= ~(3u << (2 * s.devices[d].key));
    }
    if (now != rights) write_rights(now);
    held_ = devices;
    return;
  }
  for (DeviceMask missing = devices & ~held_; missing != 0; missing &= missing - 1) {
    enter(s.devices[__builtin_ctz(missing)]);
  }
  held_ |= devices;
}

void ThreadAccess::drop() {
  State& s = state();
  if (s.mode == Protection::keys) {
    if (saved_) write_rights(saved_rights_);
    saved_ = false;
  } else {
    for (; held_ != 0; held_ &= held_ - 1) s.devices[__builtin_ctz(held_)].num_holders.fetch_sub(1);
  }
  held_ = 0;
}

void protect_pages(int device, Span span, const std::vector<Span>& spans) {
  DeviceState& d = state().devices[device];
  if (state().mode == Protection::keys) return change_pages(span, kReadWrite, d.key);
  HiddenLock lock(d.mutex);
  d.spans = spans;
  if (!d.closed.load()) change_pages(span, kReadWrite, -1);
}

void release_pages(int device, Span span, const std::vector<Span>& spans) {
  DeviceState& d = state().devices[device];
  HiddenLock lock(d.mutex);
  d.spans = spans;
  syscall(SYS_madvise, span.begin, span.end - span.begin, MADV_DONTNEED);
  if (d.key >= 0) {
    change_pages(span, PROT_NONE, d.key);
  } else {
    change_pages(span, PROT_NONE, -1);
  }
}

void close_idle_devices() {
  State& s = state();
  if (s.mode == Protection::keys) return;
  for (int d = 0; d < kMaxDevices; ++d) close_if_idle(s.devices[d]);
}

}  // namespace emulator
