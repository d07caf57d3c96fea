#include "launcher/launch.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "core/config/load.h"
#include "core/error.h"
#include "core/metrics/console.h"
#include "core/metrics/log.h"
#include "core/metrics/run_directory.h"
#include "launcher/cli.h"
#include "launcher/resume.h"
#include "launcher/stop_signal.h"

namespace trireme {

namespace {

namespace fs = std::filesystem;

// Blocks the signals that a supervisor waits for; the former mask comes back at the end.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigemptyset(&set_);
    for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) sigaddset(&set_, number);
    sigprocmask(SIG_BLOCK, &set_, &former_);
    // Where the parent had this signal ignored, nobody would hear of a child's end.
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &action, &former_child_);
  }
  ~BlockedSignals() {
    sigaction(SIGCHLD, &former_child_, nullptr);
    sigprocmask(SIG_SETMASK, &former_, nullptr);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

  int wait() const {
    int number = 0;
    while (sigwait(&set_, &number) != 0) {
    }
    return number;
  }
  const sigset_t& former() const { return former_; }

 private:
  sigset_t set_;
  sigset_t former_;
  struct sigaction former_child_ {};
};

// Becomes the command; runs in the child, never returns. The parent learns of a failure through `report`.
[[noreturn]] void become(std::vector<char*>& argv, const sigset_t& mask, int report) {
  ::setpgid(0, 0);  // Ctrl-C reaches the supervisor alone, which passes it on once
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(report, &error, sizeof error);
  ::_exit(127);
}

pid_t start(const std::vector<std::string>& command, const sigset_t& mask) {
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) throw MachineError({.what = "can't make a pipe"});
  const pid_t child = ::fork();
  if (child == 0) become(argv, mask, report[1]);
  ::close(report[1]);
  int error = child < 0 ? errno : 0;
  if (child > 0 && ::read(report[0], &error, sizeof error) == sizeof error) ::waitpid(child, nullptr, 0);
  ::close(report[0]);
  if (error != 0) {
    const bool missing = error == ENOENT && command[0] == "mpirun";
    throw MachineError({.what = "can't start " + command[0] + ": " + std::strerror(error),
                        .hint = missing ? "apt-get install openmpi-bin" : ""});
  }
  return child;
}

using Clock = std::chrono::steady_clock;

// The exit code of the command; sets `asked` when a signal asked it to end.
int watch(pid_t child, const BlockedSignals& signals, int stop_signal, std::optional<Clock::time_point>& asked) {
  while (true) {
    const int number = signals.wait();
    if (number != SIGCHLD) {
      const Clock::time_point now = Clock::now();
      if (!asked) {
        ::kill(child, stop_signal);
      } else if (now - *asked >= std::chrono::seconds(StopSignal::kSameRequestSeconds)) {
        ::kill(child, SIGTERM);
      }
      asked = asked.value_or(now);
      continue;
    }
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != child) continue;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

std::string end_text(int code) {
  return code > 128 && code < 128 + 65 ? "signal " + std::to_string(code - 128) + " (" + strsignal(code - 128) + ")"
                                       : "exit code " + std::to_string(code);
}

}  // namespace

std::vector<std::string> mpirun_command(const LaunchArgs& args, const std::string& program, bool as_root,
                                        int num_gpus) {
  // --quiet: the program's own message stands alone. Ranks share cores by their thread counts, not by binding.
  std::vector<std::string> command = {"mpirun", "--quiet", "--bind-to", "none"};
  const auto add = [&](std::initializer_list<std::string> words) { command.insert(command.end(), words); };
  if (as_root) add({"--allow-run-as-root"});
  if (args.hosts.empty()) {
    const int nproc = args.nproc.value_or(std::max(1, num_gpus));
    add({"--oversubscribe", "-np", std::to_string(nproc)});  // more ranks than cores is for the user to say
  } else {
    add({"--hostfile", args.hosts, "-x", kLaunchVariable});  // ranks of this machine have the environment anyway
    if (args.nproc) add({"-np", std::to_string(*args.nproc)});
  }
  add({program});
  command.insert(command.end(), args.command.begin(), args.command.end());
  return command;
}

int count_gpus() {
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    const std::string list = visible;
    if (list.empty() || list == "-1") return 0;
    return static_cast<int>(1 + std::count(list.begin(), list.end(), ','));
  }
  std::error_code error;
  const fs::directory_iterator gpus("/proc/driver/nvidia/gpus", error);
  return error ? 0 : static_cast<int>(std::distance(begin(gpus), end(gpus)));
}

int supervise(const std::vector<std::string>& command, int max_restarts, int stop_signal,
              const std::function<void(std::string_view)>& say) {
  const BlockedSignals signals;
  std::optional<Clock::time_point> asked;
  for (int restart = 0;; ++restart) {
    const int code = watch(start(command, signals.former()), signals, stop_signal, asked);
    const bool repeats =
        code == 0 || code == static_cast<int>(ExitCode::config) || code == static_cast<int>(ExitCode::data);
    if (repeats || asked) return code;
    if (restart == max_restarts) {
      if (max_restarts > 0 || code > 128) say("the ranks ended with " + end_text(code));
      return code;
    }
    say("the ranks ended with " + end_text(code) + "; restart " + std::to_string(restart + 1) + " of " +
        std::to_string(max_restarts));
  }
}

int launch_command(const LaunchArgs& args) {
  if (args.command.empty() || args.command.front() == "launch") {
    throw ConfigError(
        {.what = "launch needs the command that its ranks run", .hint = "trireme launch --nproc 2 train CONFIG"});
  }
  check_command_line(args.command);
  std::error_code ignored;
  if (!args.hosts.empty() && !fs::is_regular_file(args.hosts, ignored)) {
    throw ConfigError({.what = "the host file was not found", .where = args.hosts, .hint = "lines of HOST slots=N"});
  }
  Console console(STDERR_FILENO, /*terminal=*/false);
  const Logger logger(/*rank=*/0, console);
  const std::string program = fs::read_symlink("/proc/self/exe").string();
  // By this name ranks that start again know that they do (resume.h).
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  ::setenv(kLaunchVariable,
           (host_name() + "-" + std::to_string(::getpid()) + "-" + std::to_string(now.count())).c_str(),
           /*overwrite=*/1);
  // mpirun forwards SIGUSR1 to all ranks, which stop after the step and save; SIGTERM it answers by killing them.
  return supervise(mpirun_command(args, program, ::geteuid() == 0, count_gpus()), args.max_restarts, SIGUSR1,
                   [&](std::string_view text) { logger.warn(text); });
}

}  // namespace trireme
