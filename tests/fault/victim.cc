#include "tests/fault/victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tests/fault/program.h"

namespace fs = std::filesystem;

namespace trireme::testing {

namespace {

struct Process {
  pid_t parent = 0;
  std::string name;
  bool zombie = false;
};

std::map<pid_t, Process> processes() {
  std::map<pid_t, Process> all;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const size_t open = text.find('('), close = text.rfind(')');
    if (open == std::string::npos || close == std::string::npos || close + 4 > text.size()) continue;
    const char state = text[close + 2];
    all[std::stoi(name)] = {std::stoi(text.substr(close + 4)), text.substr(open + 1, close - open - 1),
                            state == 'Z' || state == 'X'};
  }
  return all;
}

bool descends_from(const std::map<pid_t, Process>& all, pid_t pid, pid_t ancestor) {
  for (auto at = all.find(pid); at != all.end(); at = all.find(at->second.parent)) {
    if (at->second.parent == ancestor) return true;
  }
  return false;
}

}  // namespace

Victim::Victim(const std::vector<std::string>& command, int ranks, const std::string& scratch, const std::string& log) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::vector<std::string> words;
  if (ranks > 1) {
    // What a killed mpirun leaves goes away with `scratch`. The ranks beside a killed one follow it at once.
    std::istringstream start(mpirun(ranks) + " --mca orte_tmpdir_base " + scratch +
                             " --mca btl_vader_backing_directory " + scratch + " --mca odls_base_sigkill_timeout 0");
    for (std::string word; start >> word;) words.push_back(word);
  }
  words.push_back(std::string(TRIREME_BINARY_DIR) + "/trireme");
  words.insert(words.end(), command.begin(), command.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  leader_ = ::fork();
  if (leader_ < 0) throw std::runtime_error("fork failed");
  if (leader_ > 0) return;
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  const int in = ::open("/dev/null", O_RDONLY);
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::setpgid(0, 0);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

Victim::~Victim() {
  kill_all(ranks());
  end();
}

void Victim::reap() {
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid != leader_) continue;
    leader_gone_ = true;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
}

bool Victim::alive() {
  reap();
  return !leader_gone_;
}

std::vector<pid_t> Victim::ranks() const {
  std::vector<pid_t> found;
  const auto all = processes();
  for (const auto& [pid, process] : all) {
    if (process.name == "trireme" && !process.zombie && descends_from(all, pid, ::getpid())) found.push_back(pid);
  }
  return found;
}

void Victim::kill_all(std::vector<pid_t> ranks) const {
  for (const pid_t rank : ranks) ::kill(rank, SIGKILL);
  if (!leader_gone_) ::kill(leader_, SIGKILL);
}

void Victim::kill_one(pid_t rank) { ::kill(rank, SIGKILL); }

void Victim::signal(int number) const { ::kill(leader_, number); }

int Victim::end() {
  bool forced = false;
  for (const auto begin = std::chrono::steady_clock::now();;) {
    reap();
    if (leader_gone_ && ::waitpid(-1, nullptr, WNOHANG) < 0) break;  // no child is left
    // Without mpirun nobody tells the ranks that it is over.
    if (leader_gone_) {
      for (const pid_t rank : ranks()) ::kill(rank, SIGKILL);
    } else if (!forced && std::chrono::steady_clock::now() - begin > std::chrono::seconds(60)) {
      forced = true;
      kill_all(ranks());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return forced ? -1 : status_;
}

}  // namespace trireme::testing
