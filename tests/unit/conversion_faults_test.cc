// Conversions under faults of the disk, and how much memory they take.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "checkpoint/hugging_face_export.h"
#include "checkpoint/hugging_face_import.h"
#include "checkpoint/output_directory.h"
#include "core/config/hf_config_writer.h"
#include "models/transformer.h"
#include "tests/faulty_files.h"
#include "tests/unit/data_testing.h"
#include "tests/unit/hugging_face_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::FaultyFiles;
using testing::Filling;
using testing::PowerCut;
using testing::StoredAs;
using testing::TempDir;

void import_directory(FileSystem& files, const std::string& hf, const ModelConfig& config, const std::string& path) {
  OutputDirectory out(files, path);
  ImportOptions options;
  options.max_file_bytes = 9000;
  import_hugging_face(files, SafetensorsReader(hf), hugging_face_names(config), model_parameters(config), options,
                      out.path());
  out.commit();
}

void export_directory(FileSystem& files, const std::string& checkpoint, const ModelConfig& config,
                      const std::string& path) {
  OutputDirectory out(files, path);
  ExportOptions options;
  options.max_shard_bytes = 9000;
  export_hugging_face(files, CheckpointReader(checkpoint), hugging_face_names(config), options, out.path());
  out.write_text("config.json", hf_config_json(config, {}));
  out.commit();
}

// Fails each operation once: the directory is there whole, or not at all, and nothing else is left; a second attempt
// succeeds.
void fail_each(const std::string& parent, const std::string& path, const std::function<void(FileSystem&)>& convert,
               const std::function<void()>& expect_whole) {
  FaultyFiles counting;
  convert(counting);
  expect_whole();
  fs::remove_all(path);
  const int64_t n = counting.num_operations();
  ASSERT_GT(n, 15);
  const auto entries = std::distance(fs::directory_iterator(parent), {});
  for (int64_t k = 1; k <= n; ++k) {
    for (const bool cut : {false, true}) {
      FaultyFiles files;
      cut ? files.cut_write_at(k, ENOSPC) : files.fail_at(k, EIO);
      bool failed = false;
      try {
        convert(files);
      } catch (const MachineError&) {
        failed = true;
      }
      if (failed && fs::exists(path)) {
        EXPECT_EQ(k, n) << "only the flush of the parent comes behind the rename";
      }
      if (fs::exists(path)) {
        expect_whole();
      } else {
        EXPECT_TRUE(failed);
      }
      fs::remove_all(path);
      EXPECT_EQ(std::distance(fs::directory_iterator(parent), {}), entries) << "left behind by operation " << k;
    }
    // Without power nothing can be cleaned up: the next attempt does it.
    FaultyFiles files;
    files.cut_power_at(k);
    EXPECT_THROW(convert(files), PowerCut);
    files.lose_unsynced(/*names=*/true);
    if (fs::exists(path)) expect_whole();
    fs::remove_all(path);
    FaultyFiles repaired;
    convert(repaired);
    expect_whole();
    fs::remove_all(path);
    EXPECT_EQ(std::distance(fs::directory_iterator(parent), {}), entries);
  }
}

TEST(ConversionFaults, AnImportIsWholeOrAbsent) {
  const TempDir dir;
  const ModelConfig config = testing::hugging_face_model("qwen3_tied").config;
  testing::write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::bits);
  const std::string path = dir / "out/ckpt";
  fs::create_directories(dir / "out");
  fail_each(
      dir / "out", path, [&](FileSystem& files) { import_directory(files, dir / "hf", config, path); },
      [&] { EXPECT_EQ(CheckpointReader::verify(path), std::vector<std::string>{}); });
}

TEST(ConversionFaults, AnExportIsWholeOrAbsent) {
  const TempDir dir;
  const ModelConfig config = testing::hugging_face_model("gpt2").config;
  testing::write_hugging_face(dir / "hf", config, StoredAs::bf16, Filling::bits);
  import_directory(local_files(), dir / "hf", config, dir / "ckpt");
  const std::string path = dir / "out/hf";
  fs::create_directories(dir / "out");
  fail_each(
      dir / "out", path, [&](FileSystem& files) { export_directory(files, dir / "ckpt", config, path); },
      [&] { testing::expect_same_tensors(path, dir / "hf"); });
}

#ifndef TRIREME_SANITIZED  // AddressSanitizer keeps what was freed, and its own tables

// Memory of this process that no file backs, in bytes.
int64_t own_memory() {
  std::ifstream status("/proc/self/status");
  std::string key;
  int64_t kib = 0;
  while (status >> key) {
    if (key == "RssAnon:") status >> kib;
  }
  return kib * 1024;
}

// The most that `work` was seen to take beyond what was there before.
int64_t growth(const std::function<void()>& work) {
  const int64_t before = own_memory();
  std::atomic<bool> done = false;
  int64_t most = before;
  std::thread watcher([&] {
    while (!done) most = std::max(most, own_memory());
  });
  work();
  done = true;
  watcher.join();
  return most - before;
}

// A model of 125 MiB, nearly all of it in one tensor, in both directions.
TEST(ConversionMemory, IsFarBelowTheModelsSize) {
  const TempDir dir;
  ModelConfig config = testing::hugging_face_model("gpt2").config;
  config.vocab_size = 1'500'000;
  testing::write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::zeros);
  const int64_t bytes = count_parameters(config) * 4;
  ASSERT_GT(bytes, int64_t{120} << 20);
  const NameMap names = hugging_face_names(config);
  const std::vector<Parameter> parameters = model_parameters(config);
  fs::create_directories(dir / "ckpt");
  fs::create_directories(dir / "out");
  const int64_t import_growth = growth(
      [&] { import_hugging_face(local_files(), SafetensorsReader(dir / "hf"), names, parameters, {}, dir / "ckpt"); });
  EXPECT_LT(import_growth, 5 * kPieceBytes);
  EXPECT_GT(import_growth, kPieceBytes / 4) << "nobody watched";
  fs::remove_all(dir / "hf");
  const int64_t export_growth =
      growth([&] { export_hugging_face(local_files(), CheckpointReader(dir / "ckpt"), names, {}, dir / "out"); });
  EXPECT_LT(export_growth, 5 * kPieceBytes);
}

#endif

}  // namespace
}  // namespace trireme
