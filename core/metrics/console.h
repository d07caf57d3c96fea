// What the person at the terminal sees: lines that stay, and at most one live line below them that changes in place.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

namespace trireme {

// Writes to a file descriptor that it doesn't own. Thread-safe. Failures to write are ignored: a closed terminal
// doesn't stop a run.
class Console {
 public:
  // `terminal`: a live line is drawn with \r; otherwise it is dropped and only lines come out. Its width is asked of
  // `width_fd` when `fd` itself is a pipe to a terminal.
  Console(int fd, bool terminal, int width_fd = -1) : fd_(fd), terminal_(terminal), width_fd_(width_fd) {}

  bool terminal() const { return terminal_; }
  void line(std::string_view text);  // stays; the live line moves below it
  void live(std::string_view text);  // replaces the live line, cut to the terminal's width
  void end_live();                   // the live line stays as it is and ends

 private:
  void write(std::string_view text);
  size_t width() const;

  int fd_;
  bool terminal_;
  int width_fd_;
  std::mutex mutex_;
  std::string live_;
};

}  // namespace trireme
