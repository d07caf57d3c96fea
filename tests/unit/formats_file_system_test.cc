// The system's files: bytes where they belong, and errors that name path, reason and what to do.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "core/formats/atomic_file.h"
#include "core/formats/file_system.h"
#include "core/formats/mapped_file.h"
#include "tests/unit/data_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::message_of;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(LocalFiles, WritesAtAnyPlaceFromSeveralThreads) {
  const TempDir dir;
  const std::string path = dir / "a";
  write_file(path, "an old file that is longer");
  {
    const auto file = local_files().create(path);
    EXPECT_EQ(fs::file_size(path), 0u);
    file->write_at(6, bytes_of("world"));
    std::thread other([&] { file->write_at(0, bytes_of("hello ")); });
    file->write_at(11, bytes_of("!"));
    other.join();
    file->sync();
    file->close();
  }
  EXPECT_EQ(read_file(path), "hello world!");
  {
    const auto file = local_files().create(path);
    file->write_at(2, bytes_of("x"));  // not closed: what was written stays
  }
  EXPECT_EQ(read_file(path), std::string("\0\0x", 3));
}

// Large blocks may take another way to the disk than small ones and odd ones: in one file, side by side.
TEST(LocalFiles, LargeBlocksAndOddOnesInOneFile) {
  const TempDir dir;
  constexpr size_t kBlock = size_t{2} << 20;
  constexpr size_t kBytes = 4 * kBlock + 4096 + 17;
  std::vector<std::byte> memory(kBytes + 4096);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  const std::span<std::byte> bytes(memory.data() + (4096 - address % 4096) % 4096, kBytes);
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  const auto file = local_files().create(dir / "a");
  const auto write = [&](size_t at, size_t n) { file->write_at(static_cast<int64_t>(at), bytes.subspan(at, n)); };
  write(4 * kBlock, 4096 + 17);
  std::thread other([&] { write(2 * kBlock, 2 * kBlock); });
  write(5, kBlock - 5);
  write(0, kBlock / 2);
  write(kBlock, kBlock);
  other.join();
  file->sync();
  file->close();
  const std::string found = read_file(dir / "a");
  ASSERT_EQ(found.size(), kBytes);
  EXPECT_EQ(std::memcmp(found.data(), bytes.data(), kBytes), 0);
}

TEST(LocalFiles, DirectoriesAreMadeRenamedAndRemovedWhole) {
  const TempDir dir;
  FileSystem& files = local_files();
  files.make_directories(dir / "a/b/c");
  files.make_directories(dir / "a/b/c");
  write_file(dir / "a/b/c/file", "x");
  files.sync_directory(dir / "a/b/c");
  files.rename(dir / "a", dir / "z");
  EXPECT_EQ(read_file(dir / "z/b/c/file"), "x");
  write_file(dir / "new", "new");
  files.rename(dir / "new", dir / "z/b/c/file");
  EXPECT_EQ(read_file(dir / "z/b/c/file"), "new");
  // A directory never swallows another that holds something.
  files.make_directories(dir / "other");
  EXPECT_CONTAINS(message_of<MachineError>([&] { files.rename(dir / "other", dir / "z"); }), dir / "z");
  EXPECT_EQ(read_file(dir / "z/b/c/file"), "new");
  files.remove(dir / "z");
  EXPECT_FALSE(file_exists(dir / "z"));
  files.remove(dir / "z");
  files.remove(dir / "no/such/parent");
}

TEST(LocalFiles, ErrorsNamePathAndReason) {
  const TempDir dir;
  FileSystem& files = local_files();
  write_file(dir / "file", "x");
  const auto expect = [&](const std::string& path, const std::string& reason, auto&& body) {
    const std::string message = message_of<MachineError>(body);
    EXPECT_CONTAINS(message, path);
    EXPECT_CONTAINS(message, reason);
  };
  const std::string below = dir / "file/below";
  expect(below, "Not a directory", [&] { files.make_directories(below); });
  expect(below, "Not a directory", [&] { files.create(below); });
  expect(dir / "no/a", "No such file", [&] { files.create(dir / "no/a"); });
  expect(dir / "no", "No such file", [&] { files.rename(dir / "no", dir / "yes"); });
  expect(dir / "no", "No such file", [&] { files.sync_directory(dir / "no"); });
  expect(dir.path(), "Is a directory", [&] { files.create(dir.path()); });
}

TEST(LocalFiles, AFullDiskIsNamedOnWriteAndFlush) {
  const auto file = local_files().create("/dev/full");
  const std::string message = message_of<MachineError>([&] { file->write_at(0, bytes_of("x")); });
  EXPECT_CONTAINS(message, "/dev/full");
  EXPECT_CONTAINS(message, "No space left on device");
  EXPECT_CONTAINS(message, "freeing space");
}

TEST(LocalFiles, FreeSpaceOfThePlaceOrItsNearestParent) {
  const TempDir dir;
  const auto here = static_cast<double>(local_files().free_bytes(dir.path()));
  EXPECT_GT(here, 0);
  EXPECT_NEAR(static_cast<double>(local_files().free_bytes(dir / "not/there/yet")), here, here / 2 + 1e9);
  write_file(dir / "file", "x");
  EXPECT_GT(local_files().free_bytes(dir / "file/below"), 0);
  EXPECT_GT(local_files().free_bytes("relative/not/there"), 0);
}

TEST(AtomicFile, WithoutCommitTheOldFileStays) {
  const TempDir dir;
  write_file(dir / "a", "old");
  {
    AtomicFile file(dir / "a");
    file.append(bytes_of("new"));
    EXPECT_TRUE(file_exists(dir / "a.tmp"));
  }
  EXPECT_EQ(read_file(dir / "a"), "old");
  EXPECT_FALSE(file_exists(dir / "a.tmp"));
  AtomicFile file(dir / "a");
  file.append(bytes_of("new"));
  file.commit();
  EXPECT_EQ(read_file(dir / "a"), "new");
  EXPECT_FALSE(file_exists(dir / "a.tmp"));
}

}  // namespace
}  // namespace trireme
