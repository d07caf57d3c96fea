// Keeps device memory from threads that aren't a stream's.
//
// With protection keys (x86 PKU) each device has one, and rights belong to threads: an access by host code faults at
// once, one by a kernel of another device too. Where the CPU has none, pages of a device are inaccessible while no
// stream thread holds it, which is so after a host thread has waited for all that was queued: the usual mistake, reading
// a result where it lies, faults every time; one made while a kernel runs does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/emulator/emulator.h"

namespace emulator {

using DeviceMask = uint32_t;  // bit d: device d
inline constexpr DeviceMask kAllDevices = (1u << kMaxDevices) - 1;
inline DeviceMask device_bit(int device) { return 1u << device; }

struct Span {
  uintptr_t begin;
  uintptr_t end;
};

// The rights of one thread. Constructed without any.
class ThreadAccess {
 public:
  ~ThreadAccess() { drop(); }
  // May touch the memory of these devices from now on. Under Protection::pages, of those set before as well.
  void set(DeviceMask devices);
  void drop();

 private:
  DeviceMask held_ = 0;
  uint32_t saved_rights_ = 0;
  bool saved_ = false;
};

// Makes [begin, end) memory of `device`, or nothing's. `spans` are all of that device's memory after the change.
void protect_pages(int device, Span span, const std::vector<Span>& spans);
void release_pages(int device, Span span, const std::vector<Span>& spans);

// Takes back what pages mode has left accessible, of devices that no thread holds. Host threads call it when they have
// waited for a stream.
void close_idle_devices();

}  // namespace emulator
