// The files of a run directory, the log and the progress line.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "core/error.h"
#include "core/metrics/console.h"
#include "core/metrics/format.h"
#include "core/metrics/log.h"
#include "core/metrics/metrics_log.h"
#include "core/metrics/progress.h"
#include "core/metrics/run_directory.h"
#include "core/metrics/run_lock.h"
#include "core/metrics/tensorboard.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Metrics : public ::testing::Test {
 protected:
  Metrics() {
    dir_ = fs::path(::testing::TempDir()) / ("metrics_" + std::to_string(::getpid()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  ~Metrics() override { fs::remove_all(dir_); }

  std::string message(const std::function<void()>& run) {
    try {
      run();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::machine);
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return "";
  }

  fs::path dir_;
};

StepMetrics step(int64_t number) {
  return {.step = number,
          .time = 1.5,
          .tokens = 512 * number,
          .loss = 0.1,
          .lr = 3e-4,
          .grad_norm = 1.25,
          .step_seconds = 0.5,
          .tokens_per_second = 1024,
          .tflops_per_rank = 0.25,
          .mfu = 0.5,
          .memory_bytes = 1 << 20};
}

TEST_F(Metrics, RowsAreWholeJson) {
  StepMetrics m = step(3);
  EXPECT_EQ(metrics_json(m),
            R"({"step":3,"time":1.5,"tokens":1536,"loss":0.1,"lr":0.0003,"grad_norm":1.25,"step_seconds":0.5,)"
            R"("tokens_per_second":1024.0,"tflops_per_rank":0.25,"mfu":0.5,"memory_bytes":1048576,)"
            R"("exposed_comm_seconds":0.0,"data_wait_seconds":0.0,"bubble_seconds":0.0,"checkpoint_seconds":0.0})");
  m.loss = std::nan("");
  m.valid_loss = 2.5;
  const std::string text = metrics_json(m);
  EXPECT_NE(text.find("\"loss\":null"), std::string::npos);
  EXPECT_NE(text.find("\"valid_loss\":2.5}"), std::string::npos);
  EXPECT_EQ(text.find("prediction_loss"), std::string::npos);
  m.prediction_loss = 3.5;
  EXPECT_NE(metrics_json(m).find(",\"prediction_loss\":3.5,"), std::string::npos);
}

TEST_F(Metrics, ResumeCutsLaterRowsAndATornOne) {
  const fs::path path = dir_ / "metrics.jsonl";
  {
    MetricsLog log(path, 0);
    for (int i = 1; i <= 5; ++i) log.append(step(i));
  }
  std::ofstream(path, std::ios::app) << "{\"step\":6,\"ti";
  { MetricsLog log(path, 10); }  // only the torn row goes
  std::string expected;
  for (int i = 1; i <= 5; ++i) expected += metrics_json(step(i)) + "\n";
  EXPECT_EQ(read_all(path), expected);
  {
    MetricsLog log(path, 3);
    log.append(step(4));
  }
  expected.clear();
  for (int i = 1; i <= 4; ++i) expected += metrics_json(step(i)) + "\n";
  EXPECT_EQ(read_all(path), expected);
  { MetricsLog log(path, 0); }
  EXPECT_EQ(read_all(path), "");
}

TEST_F(Metrics, FullDiskAndBadPathsAreNamed) {
  AppendFile full("/dev/full");
  EXPECT_NE(message([&] { full.append("x"); }).find("No space left on device at /dev/full; try freeing space"),
            std::string::npos);
  const fs::path nowhere = dir_ / "no" / "file";
  EXPECT_NE(message([&] { AppendFile file(nowhere); }).find(nowhere.string()), std::string::npos);
  EXPECT_NE(message([&] { replace_file(nowhere, "x"); }).find("No such file"), std::string::npos);
}

TEST_F(Metrics, ReplaceLeavesNothingBeside) {
  replace_file(dir_ / "a", "one");
  replace_file(dir_ / "a", "two");
  EXPECT_EQ(read_all(dir_ / "a"), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 1);
}

TEST_F(Metrics, RunDirectory) {
  const RunDirectory run = RunDirectory::create(dir_ / "deep" / "run");
  EXPECT_TRUE(fs::is_directory(run.checkpoints()));
  EXPECT_TRUE(fs::is_directory(run.tensorboard()));
  RunDirectory::create(dir_ / "deep" / "run");  // again, as a resume does
  run.write_config("a: 1\n");
  EXPECT_EQ(read_all(run.config_file()), "a: 1\n");
  run.write_status({.state = RunState::running, .step = 7, .layout = "data 2"});
  EXPECT_EQ(read_all(run.status_file()),
            "{\n  \"state\": \"running\",\n  \"step\": 7,\n  \"reason\": \"\",\n  \"exit_code\": null,\n  \"layout\": "
            "\"data 2\",\n  \"host\": \"" +
                host_name() + "\",\n  \"pid\": " + std::to_string(::getpid()) + "\n}\n");
  run.write_status({.state = RunState::failed, .step = 8, .reason = "\"NaN\"", .exit_code = 5});
  EXPECT_NE(read_all(run.status_file()).find("\"exit_code\": 5"), std::string::npos);
}

TEST_F(Metrics, UnwritableRunDirectoryIsNamed) {
  std::ofstream(dir_ / "file") << "x";
  EXPECT_NE(
      message([&] { RunDirectory::create(dir_ / "file"); }).find("can't create the run directory: Not a directory"),
      std::string::npos);
  EXPECT_NE(message([&] { RunDirectory::create(dir_ / "file" / "run"); }).find((dir_ / "file" / "run").string()),
            std::string::npos);
  // No one can make files in /proc, not even root.
  const std::string text = message([] { RunDirectory::create("/proc/trireme-run"); });
  EXPECT_NE(text.find("at /proc/trireme-run"), std::string::npos) << text;
}

TEST_F(Metrics, OneRunInARunDirectory) {
  using std::chrono::milliseconds;
  {
    const RunLock first(dir_);
    const std::string text = message([&] { RunLock(dir_, milliseconds(0)); });
    EXPECT_NE(text.find("another run is at work"), std::string::npos) << text;
    EXPECT_NE(text.find("process " + std::to_string(::getpid()) + " on " + host_name()), std::string::npos) << text;
    EXPECT_NE(text.find(dir_.string()), std::string::npos) << text;
    EXPECT_NE(message([&] { RunLock(dir_, milliseconds(120)); }), "") << "a refusal took nothing away";
  }
  const RunLock second(dir_, milliseconds(0));
}

// What a killed run leaves is no lock.
TEST_F(Metrics, ARunThatWasKilledLocksNothing) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const RunLock lock(dir_);
    if (::write(ready[1], "x", 1) == 1) ::pause();
    ::_exit(1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_NE(message([&] { RunLock(dir_, std::chrono::milliseconds(0)); }).find(std::to_string(child)),
            std::string::npos);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const RunLock lock(dir_, std::chrono::milliseconds(0));
}

// ---- TensorBoard ----

std::string hex(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

TEST(TensorBoard, Crc32cKnownAnswers) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

// The bytes that TensorBoard 2.21's own RecordWriter wrote for the same events.
TEST(TensorBoard, RecordsAreThoseOfTensorBoard) {
  EXPECT_EQ(hex(event_record(version_event(1700000000.5))),
            "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110");
  EXPECT_EQ(hex(event_record(scalar_event(1700000001.25, 300, {{"train/loss", 5.5f}, {"lr", 0.001f}}))),
            "2c00000000000000f4aecc450900005040fc54d94110ac022a1e0a110a0a747261696e2f6c6f7373150000b0400a090a026c7215"
            "6f12833a6d2bdae0");
  EXPECT_EQ(hex(event_record(restart_event(1700000002.0, 101))),
            "0f000000000000006d532b090900008040fc54d94110653a020801273a3e87");
}

TEST_F(Metrics, EventFile) {
  {
    EventWriter writer(dir_, 1700000000.5, 0);
    writer.write(1.0, 1, {{"a", 2.0f}});
  }
  const fs::path path = dir_ / ("events.out.tfevents.1700000000." + host_name());
  EXPECT_EQ(read_all(path),
            event_record(version_event(1700000000.5)) + event_record(scalar_event(1.0, 1, {{"a", 2.0f}})));
  { EventWriter resumed(dir_, 1800000000.0, 100); }
  EXPECT_EQ(read_all(dir_ / ("events.out.tfevents.1800000000." + host_name())),
            event_record(version_event(1800000000.0)) + event_record(restart_event(1800000000.0, 101)));
}

// ---- What people see ----

TEST(Format, Numbers) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes((int64_t{1} << 30) - 1), "1.0 GiB");
  EXPECT_EQ(human_bytes(int64_t{13200000000}), "12.3 GiB");
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(999.6), "1.00k");
  EXPECT_EQ(human_count(85213), "85.2k");
  EXPECT_EQ(human_count(1916000), "1.92M");
  EXPECT_EQ(human_count(8.03e9), "8.03B");
  EXPECT_EQ(human_duration(0.4), "0s");
  EXPECT_EQ(human_duration(59.6), "1m 00s");
  EXPECT_EQ(human_duration(200), "3m 20s");
  EXPECT_EQ(human_duration(3725), "1h 02m");
  EXPECT_EQ(human_duration(2 * 86400 + 3 * 3600), "2d 03h");
  EXPECT_EQ(human_duration(INFINITY), "?");
  EXPECT_EQ(scientific(3e-4), "3.00e-04");
}

TEST(Progress, Text) {
  StepMetrics m = step(3);
  m.loss = 1.23456;
  m.tokens_per_second = 85213;
  EXPECT_EQ(progress_text(m, 400, 2, 200),
            "step   3/400 | left 3m 20s | loss 1.2346 | lr 3.00e-04 | norm 1.250 | 85.2k tok/s | "
            "0.50 TFLOP/s (50% of peak) | 1.0 MiB");
  m.mfu = 0;
  m.tflops_per_rank = 0;
  m.memory_bytes = 0;
  m.valid_loss = 2;
  EXPECT_EQ(progress_text(m, 3, 1, 0),
            "step 3/3 | left 0s | loss 1.2346 | valid 2.0000 | lr 3.00e-04 | norm 1.250 | 85.2k tok/s");
}

// Both ends of a pipe: what was written so far can be read back.
struct Pipe {
  Pipe() { EXPECT_EQ(::pipe(ends), 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  std::string take() {
    char buffer[4096];
    const ssize_t n = ::read(ends[0], buffer, sizeof buffer);
    return std::string(buffer, static_cast<size_t>(n));
  }
  int ends[2];
};

TEST(Progress, PlainLinesElsewhereLiveOnATerminal) {
  Pipe pipe;
  Console plain(pipe.ends[1], /*terminal=*/false);
  ProgressLine lines(plain, 10, 1);
  StepMetrics m = step(1);
  m.step_seconds = 100;  // the warm-up step
  lines.show(m);
  m = step(2);
  m.step_seconds = 10;
  lines.show(m);
  const std::string text = pipe.take();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_NE(text.find("left 1m 20s |"), std::string::npos) << text;

  Console terminal(pipe.ends[1], /*terminal=*/true);
  {
    ProgressLine live(terminal, 10, 1);
    live.show(m);
    const std::string first = pipe.take();
    EXPECT_EQ(first.substr(0, 4), "\r\x1b[K");
    EXPECT_EQ(first.find('\n'), std::string::npos);
    terminal.line("a message");
    EXPECT_EQ(pipe.take(), "\r\x1b[Ka message\n" + first.substr(4));
  }
  EXPECT_EQ(pipe.take(), "\n");
}

TEST_F(Metrics, LogOfRanks) {
  Pipe pipe;
  Console console(pipe.ends[1], /*terminal=*/false);
  Logger zero(0, console);
  Logger one(1, console);
  zero.info("before the file");
  zero.open_file(dir_ / "log.txt");
  one.open_file(dir_ / "log.txt");
  zero.info("{} hello");
  one.info("not shown");
  one.warn("of one");
  zero.warn("careful");
  zero.error("broken");
  const std::string text = pipe.take();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_NE(text.find("before the file\n"), std::string::npos);
  EXPECT_NE(text.find("warning: careful\n"), std::string::npos) << text;
  EXPECT_NE(text.find("{} hello\n"), std::string::npos);
  EXPECT_EQ(text.find("broken"), std::string::npos) << "the launcher prints what ends a run";
  EXPECT_EQ(text.find("of one"), std::string::npos);
  const std::string file = read_all(dir_ / "log.txt");
  EXPECT_EQ(std::count(file.begin(), file.end(), '\n'), 4);
  EXPECT_NE(file.find(" rank 0 info: {} hello\n"), std::string::npos) << file;
  EXPECT_NE(file.find(" rank 1 warning: of one\n"), std::string::npos);
  EXPECT_NE(file.find(" rank 0 error: broken\n"), std::string::npos);
  EXPECT_EQ(file.find("not shown"), std::string::npos);
}

}  // namespace
}  // namespace trireme
