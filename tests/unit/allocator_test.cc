#include "core/device/allocator.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"

namespace trireme {
namespace {

TEST(Allocator, CountsWhatIsAliveByTag) {
  CpuAllocator allocator;
  const auto a = allocator.allocate(1000, MemoryTag::parameters);
  {
    const auto b = allocator.allocate(3 << 20, MemoryTag::activations);
    std::memset(b->data(), 1, 3 << 20);
    const MemoryStats stats = allocator.stats();
    EXPECT_EQ(stats.live_bytes[static_cast<size_t>(MemoryTag::parameters)], 1000);
    EXPECT_EQ(stats.live_bytes[static_cast<size_t>(MemoryTag::activations)], 3 << 20);
    EXPECT_EQ(stats.total_live_bytes, 1000 + (3 << 20));
  }
  const MemoryStats stats = allocator.stats();
  EXPECT_EQ(stats.live_bytes[static_cast<size_t>(MemoryTag::activations)], 0);
  EXPECT_EQ(stats.peak_live_bytes, 1000 + (3 << 20));
  EXPECT_GE(stats.reserved_bytes, stats.peak_live_bytes);
}

TEST(Allocator, GivesFreedBlocksOutAgain) {
  CpuAllocator allocator;
  for (int i = 0; i < 10; ++i) {
    const auto a = allocator.allocate(5 << 20, MemoryTag::workspace);
    const auto b = allocator.allocate(100, MemoryTag::workspace);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a->data()) % 256, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b->data()) % 256, 0u);
  }
  EXPECT_EQ(allocator.stats().system_allocations, 2);
  // A much smaller request does not take a large cached block.
  const auto c = allocator.allocate(2 << 20, MemoryTag::workspace);
  EXPECT_EQ(allocator.stats().system_allocations, 3);
}

// An allocator whose system has no more memory.
class EmptyAllocator final : public Allocator {
 public:
  EmptyAllocator() : Allocator(Device{}) {}
  ~EmptyAllocator() override { release_cached(); }

 protected:
  void* system_allocate(int64_t) override { return nullptr; }
  void system_free(void*, int64_t) override {}
};

TEST(Allocator, OutOfMemorySaysForWhatAndHowMuch) {
  EmptyAllocator allocator;
  try {
    allocator.allocate(12345, MemoryTag::gradients);
    FAIL() << "no error";
  } catch (const MachineError& error) {
    EXPECT_EQ(error.code(), ExitCode::machine);
    const std::string text = error.what();
    for (const char* part : {"12345 bytes for gradients", "alive", "held", "parallel.zero"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << ": " << text;
    }
  }
}

}  // namespace
}  // namespace trireme
