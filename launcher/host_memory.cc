#include "launcher/host_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace trireme {

namespace {

namespace fs = std::filesystem;

// The number in a file of one line; -1 where there is none ("max", no such file).
int64_t number_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

// The number behind `name` in a file of lines with a name and a number each; 0 where there is none.
int64_t number_of(const std::string& name, const fs::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string key; file >> key >> value;) {
    if (key == name) return value;
  }
  return 0;
}

// One of the two versions of control groups: where the groups are, the files of each, and what memory.stat calls copies of
// files that the kernel drops first.
struct Version {
  fs::path groups;
  const char* limit;
  const char* used;
  const char* droppable;
};

// The least that is left in the group and in those above it. A container may show its own group as the topmost.
void limit_by_group(const Version& version, const std::string& group, int64_t& available) {
  fs::path at = fs::path(group).relative_path();
  while (true) {
    const fs::path directory = at.empty() ? version.groups : version.groups / at;
    const int64_t limit = number_in(directory / version.limit);
    const int64_t used = number_in(directory / version.used) - number_of(version.droppable, directory / "memory.stat");
    if (limit >= 0 && used >= 0) available = std::min(available, std::max<int64_t>(0, limit - used));
    if (at.empty()) return;
    at = at.parent_path();
  }
}

}  // namespace

int64_t available_host_bytes(const fs::path& root) {
  int64_t available = 0;
  std::ifstream meminfo(root / "proc/meminfo");
  for (std::string key; meminfo >> key;) {
    int64_t kib = 0;
    if (key == "MemAvailable:" && meminfo >> kib) available = kib * 1024;
  }
  const Version second{root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};
  const Version first{root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                      "total_inactive_file"};
  // "0::/GROUP" of version 2, "8:memory:/GROUP" of version 1.
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t kinds = line.find(':');
    const size_t group = kinds == std::string::npos ? kinds : line.find(':', kinds + 1);
    if (group == std::string::npos) continue;
    const std::string kind = line.substr(kinds + 1, group - kinds - 1);
    if (kind.empty()) limit_by_group(second, line.substr(group + 1), available);
    if (("," + kind + ",").find(",memory,") != std::string::npos)
      limit_by_group(first, line.substr(group + 1), available);
  }
  return available;
}

}  // namespace trireme
