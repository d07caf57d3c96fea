#include "core/metrics/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>

#include <mutex>

#include "core/metrics/files.h"

namespace trireme {

namespace {

std::string formatted(spdlog::formatter& formatter, const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t buffer;
  formatter.format(message, buffer);
  return fmt::to_string(buffer);
}

class ConsoleSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit ConsoleSink(Console& console) : console_(console) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    std::string text = formatted(*formatter_, message);
    if (text.ends_with('\n')) text.pop_back();
    if (message.level == spdlog::level::err) return;
    if (message.level == spdlog::level::warn) text.insert(text.find(' ') + 1, "warning: ");
    console_.line(text);
  }
  void flush_() override {}

 private:
  Console& console_;
};

// One write for each message, so that the lines of several ranks don't mix.
class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FileSink(const std::filesystem::path& path) : file_(path) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override { file_.append(formatted(*formatter_, message)); }
  void flush_() override {}

 private:
  AppendFile file_;
};

}  // namespace

struct Logger::Impl {
  Impl(int rank_, std::vector<spdlog::sink_ptr> sinks) : rank(rank_), logger("", sinks.begin(), sinks.end()) {}

  void write(spdlog::level::level_enum level, std::string_view text) { logger.log(level, text); }

  int rank;
  spdlog::logger logger;
};

Logger::Logger(int rank, Console& console) {
  std::vector<spdlog::sink_ptr> sinks;
  if (rank == 0) {
    sinks.push_back(std::make_shared<ConsoleSink>(console));
    sinks.back()->set_pattern("%H:%M:%S %v");
  }
  impl_ = std::make_unique<Impl>(rank, std::move(sinks));
  impl_->logger.set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  // A log that can't be written (full disk) doesn't stop the run; what must be written says so itself.
  impl_->logger.set_error_handler([](const std::string&) {});
}

Logger::~Logger() = default;
Logger::Logger(Logger&&) noexcept = default;

void Logger::open_file(const std::filesystem::path& path) {
  auto sink = std::make_shared<FileSink>(path);
  sink->set_pattern("%Y-%m-%d %H:%M:%S.%e rank " + std::to_string(impl_->rank) + " %l: %v");
  impl_->logger.sinks().push_back(std::move(sink));
}

void Logger::info(std::string_view text) const { impl_->write(spdlog::level::info, text); }
void Logger::warn(std::string_view text) const { impl_->write(spdlog::level::warn, text); }
void Logger::error(std::string_view text) const { impl_->write(spdlog::level::err, text); }

}  // namespace trireme
