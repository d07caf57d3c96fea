#include "core/metrics/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

namespace trireme {

namespace {

constexpr std::string_view kClearLine = "\r\x1b[K";

// The first `columns` characters; UTF-8 continuation bytes take no column.
std::string_view cut(std::string_view text, size_t columns) {
  size_t seen = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) continue;
    if (seen++ == columns) return text.substr(0, i);
  }
  return text;
}

}  // namespace

size_t Console::width() const {
  winsize size = {};
  return ::ioctl(width_fd_ >= 0 ? width_fd_ : fd_, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void Console::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd_, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void Console::line(std::string_view text) {
  const std::lock_guard lock(mutex_);
  std::string out;
  if (!live_.empty()) out += kClearLine;
  out.append(text).append("\n").append(live_);
  write(out);
}

void Console::live(std::string_view text) {
  if (!terminal_) return;
  const std::lock_guard lock(mutex_);
  const size_t columns = width();
  live_ = columns > 1 ? cut(text, columns - 1) : text;
  write(std::string(kClearLine) + live_);
}

void Console::end_live() {
  const std::lock_guard lock(mutex_);
  if (live_.empty()) return;
  live_.clear();
  write("\n");
}

}  // namespace trireme
