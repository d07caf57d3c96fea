// That FaultyFiles does what the tests of saving rely on; and AtomicFile under every fault.
#include "tests/faulty_files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/formats/atomic_file.h"
#include "core/formats/mapped_file.h"
#include "tests/unit/data_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::FaultyFiles;
using testing::message_of;
using testing::PowerCut;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

const std::string kOld = "what stood there before";
const std::string kNew(3000, 'n');

void write_new(const std::string& path, FileSystem& files) {
  AtomicFile file(path, files);
  file.append(std::as_bytes(std::span(kNew)));
  file.commit();
}

TEST(FaultyFiles, NumbersOperationsAndFailsTheOneAsked) {
  const TempDir dir;
  const std::string a = dir / "a", t = dir / "a.tmp";
  FaultyFiles files;
  write_new(a, files);
  const std::vector<std::string> all{
      "make_directories " + dir.path(), "create " + t, "write " + t, "sync " + t, "close " + t, "rename " + t,
      "sync_directory " + dir.path()};
  EXPECT_EQ(files.operations(), all);
  EXPECT_FALSE(files.fault_happened());
  files.fail_at(3, EACCES);
  EXPECT_EQ(files.num_operations(), 0);
  EXPECT_CONTAINS(message_of<MachineError>([&] { write_new(a, files); }), "Permission denied");
  EXPECT_TRUE(files.fault_happened());
  write_new(a, files);  // once only
  files.fill_disk_at(2);
  EXPECT_CONTAINS(message_of<MachineError>([&] { write_new(a, files); }), "No space left");
  EXPECT_CONTAINS(message_of<MachineError>([&] { write_new(a, files); }), "No space left");
  files.repair();
  write_new(a, files);
}

TEST(FaultyFiles, CutsWritesAndPower) {
  const TempDir dir;
  FaultyFiles files;
  files.cut_write_at(2, ENOSPC);
  {
    const auto file = files.create(dir / "a");
    message_of<MachineError>([&] { file->write_at(0, std::as_bytes(std::span(kNew))); });
    EXPECT_EQ(fs::file_size(dir / "a"), kNew.size() / 2);
  }
  files.cut_power_at(2);
  const auto file = files.create(dir / "b");
  EXPECT_THROW(file->write_at(0, std::as_bytes(std::span(kNew))), PowerCut);
  EXPECT_EQ(fs::file_size(dir / "b"), kNew.size() / 2);
  EXPECT_THROW(file->write_at(0, std::as_bytes(std::span(kNew))), PowerCut);
  EXPECT_EQ(fs::file_size(dir / "b"), kNew.size() / 2);
  EXPECT_THROW(files.remove(dir / "b"), PowerCut);
  EXPECT_TRUE(fs::exists(dir / "b"));
}

TEST(FaultyFiles, AnUncarefulWriterLosesItsFile) {
  const TempDir dir;
  const auto write = [&](FaultyFiles& files, bool sync, bool sync_names) {
    files.make_directories(dir / "d.tmp");
    const auto file = files.create(dir / "d.tmp/f");
    file->write_at(0, std::as_bytes(std::span(kNew)));
    if (sync) file->sync();
    file->close();
    files.sync_directory(dir / "d.tmp");
    files.rename(dir / "d.tmp", dir / "d");
    if (sync_names) files.sync_directory(dir.path());
  };
  for (const bool sync : {false, true}) {
    for (const bool sync_names : {false, true}) {
      for (const bool names : {false, true}) {
        FaultyFiles files;
        write(files, sync, sync_names);
        files.lose_unsynced(names);
        EXPECT_EQ(fs::exists(dir / "d"), sync_names || !names);
        if (fs::exists(dir / "d")) {
          EXPECT_EQ(read_file(dir / "d/f"), sync ? kNew : std::string(kNew.size(), '\0'));
        }
        local_files().remove(dir / "d");
        local_files().remove(dir / "d.tmp");
      }
    }
  }
}

// Whatever fails: the old file or the new one, whole; and the next write works.
TEST(FaultyFiles, AtomicFileIsOldOrNewUnderEveryFault) {
  const TempDir dir;
  const std::string path = dir / "a";
  FaultyFiles files;
  write_new(path, files);
  const int64_t num_operations = files.num_operations();
  ASSERT_EQ(num_operations, 7);
  for (int64_t k = 1; k <= num_operations; ++k) {
    SCOPED_TRACE(k);
    const auto expect_whole_and_go_on = [&](FaultyFiles& faulty) {
      const std::string left = read_file(path);
      EXPECT_TRUE(left == kOld || left == kNew) << left;
      faulty.repair();
      write_new(path, faulty);
      EXPECT_EQ(read_file(path), kNew);
    };
    for (const bool cut : {false, true}) {
      write_file(path, kOld);
      FaultyFiles faulty;
      cut ? faulty.cut_write_at(k, EIO) : faulty.fail_at(k, ENOSPC);
      EXPECT_CONTAINS(message_of<MachineError>([&] { write_new(path, faulty); }), dir.path());
      EXPECT_FALSE(file_exists(path + ".tmp"));
      EXPECT_EQ(read_file(path), k < num_operations ? kOld : kNew);
      expect_whole_and_go_on(faulty);
    }
    for (const bool names : {false, true}) {
      write_file(path, kOld);
      FaultyFiles faulty;
      faulty.cut_power_at(k);
      EXPECT_THROW(write_new(path, faulty), PowerCut);
      faulty.lose_unsynced(names);
      expect_whole_and_go_on(faulty);
    }
  }
}

}  // namespace
}  // namespace trireme
