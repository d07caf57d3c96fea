// Stacks of one block's fibers: as many as a block has threads, each with an inaccessible page below it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

class Stacks {
 public:
  static constexpr size_t kBytes = 128 << 10;

  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // The upper end of one that is free. The one given back last comes first: it is in the cache.
  char* take() {
    if (free_.empty()) add();
    char* top = free_.back();
    free_.pop_back();
    return top;
  }
  void give(char* top) { free_.push_back(top); }
  // All of them, whoever has them; also makes them accessible for AddressSanitizer.
  void take_back();
  bool contains(uintptr_t address) const { return address - base_ < bytes_; }

 private:
  void add();

  uintptr_t base_ = 0;
  size_t bytes_ = 0;
  int count_ = 0;
  int num_added_ = 0;
  std::vector<char*> free_;
};

}  // namespace emulator
