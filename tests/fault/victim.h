// The program as a group of processes that can be killed: mpirun and its ranks, or one rank alone.
//
// Orphans are adopted by the test, so that `end` knows when the last one is gone. REQUIRES: the test has no other children
// while one lives; one thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace trireme::testing {

class Victim {
 public:
  // Starts a command, its output in `log`. `ranks` > 1: under mpirun, whose own files go to `scratch`.
  Victim(const std::vector<std::string>& command, int ranks, const std::string& scratch, const std::string& log);
  ~Victim();  // kills what still lives
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  // False when it has ended by itself.
  bool alive();
  // Ranks of the program that live now.
  std::vector<pid_t> ranks() const;
  // kill -9 of these processes, and of mpirun.
  void kill_all(std::vector<pid_t> ranks) const;
  static void kill_one(pid_t rank);
  // Waits until no process is left; those of a rank that was killed follow it by themselves. Returns the exit status as a
  // shell has it, or -1 when some were still there after 60 s and had to be killed.
  int end();

 private:
  void reap();

  pid_t leader_;
  bool leader_gone_ = false;
  int status_ = 0;
};

}  // namespace trireme::testing
