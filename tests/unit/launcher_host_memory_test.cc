// Memory that is left, by what /proc and the control groups say.
#include "launcher/host_memory.h"

#include <gtest/gtest.h>

#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

class HostMemory : public ::testing::Test {
 protected:
  HostMemory() { put("proc/meminfo", "MemTotal: 100 kB\nMemAvailable:       64 kB\nBuffers: 1 kB\n"); }

  void put(const std::string& file, const std::string& text) {
    fs::create_directories(fs::path(dir_ / file).parent_path());
    testing::write_file(dir_ / file, text);
  }
  void put_group(const std::string& group, const std::string& limit, const std::string& used) {
    put("sys/fs/cgroup" + group + "/memory.max", limit);
    put("sys/fs/cgroup" + group + "/memory.current", used);
  }
  int64_t available() const { return available_host_bytes(dir_.path()); }

  testing::TempDir dir_;
};

TEST_F(HostMemory, WithoutGroupsIsWhatLinuxSays) {
  EXPECT_EQ(available(), 64 * 1024);
  fs::remove(dir_ / "proc/meminfo");
  EXPECT_EQ(available(), 0);
}

// A container sees its own group as the topmost; a job of Slurm is far below it, and its step may have no limit.
TEST_F(HostMemory, TheTightestGroupCounts) {
  put("proc/self/cgroup", "0::/\n");
  put_group("", "50000\n", "20000\n");
  EXPECT_EQ(available(), 30000);
  put("proc/self/cgroup", "0::/system.slice/slurm/job_7/step_0\n");
  put_group("/system.slice/slurm/job_7", "12000", "5000");
  put_group("/system.slice/slurm/job_7/step_0", "max", "5000");
  EXPECT_EQ(available(), 7000);
  put_group("/system.slice/slurm/job_7/step_0", "4000", "5000");
  EXPECT_EQ(available(), 0);
}

TEST_F(HostMemory, GroupsOfVersion1) {
  put("proc/self/cgroup", "9:cpu,cpuacct:/other\n8:memory:/job\n0::/\n");
  put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9000");
  put("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  put("sys/fs/cgroup/memory/memory.usage_in_bytes", "70000");
  EXPECT_EQ(available(), 8000);
}

// What files have been read or written counts as used, but the kernel drops it when memory is asked for.
TEST_F(HostMemory, CopiesOfFilesAreFree) {
  put("proc/self/cgroup", "0::/job\n");
  put_group("/job", "50000", "45000");
  put("sys/fs/cgroup/job/memory.stat", "anon 5000\nfile 39000\nactive_file 9000\ninactive_file 30000\nslab 1\n");
  EXPECT_EQ(available(), 35000);
}

}  // namespace
}  // namespace trireme
