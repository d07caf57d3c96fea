// Trireme against PyTorch: every case of golden/ through `probe`, on one rank and on several.
//
// The error of a tensor is ‖a−b‖ / max(‖b‖, 1e-4 · the largest norm of its kind); the bounds stand in README.md.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/config/load.h"
#include "core/formats/safetensors.h"
#include "launcher/probe.h"
#include "parallel/comm/thread_world.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

constexpr double kLossBound = 1e-6;
constexpr double kTensorBound = 1e-5;
constexpr double kFloor = 1e-4;

fs::path golden() { return fs::path(TRIREME_SOURCE_DIR) / "tests/oracle/golden"; }

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(golden())) {
    if (fs::exists(entry.path() / "case.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<double> values_of(const SafetensorsReader& reader, const std::string& name) {
  std::vector<double> values(static_cast<size_t>(reader.spec(name).numel()));
  reader.read(name, 0, std::span<double>(values));
  return values;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

// The largest error over the tensors whose name begins with `kind`, and how many there are.
struct Comparison {
  double error = 0;
  std::string worst;
  int count = 0;
};

Comparison compare(const SafetensorsReader& ours, const SafetensorsReader& expected, const std::string& kind) {
  double largest = 0;
  for (const std::string& name : expected.names()) {
    if (name.starts_with(kind)) largest = std::max(largest, norm(values_of(expected, name)));
  }
  Comparison result;
  for (const std::string& name : expected.names()) {
    if (!name.starts_with(kind)) continue;
    ++result.count;
    const std::vector<double> b = values_of(expected, name);
    std::vector<double> difference = values_of(ours, name);
    EXPECT_EQ(ours.spec(name).shape, expected.spec(name).shape) << name;
    for (size_t i = 0; i < b.size(); ++i) difference[i] -= b[i];
    const double error = norm(difference) / std::max(norm(b), kFloor * largest);
    if (!(error <= result.error)) {
      result.error = error;
      result.worst = name;
    }
  }
  return result;
}

std::vector<std::string> optimizer_sets(const nlohmann::json& optimizer) {
  const auto number = [](const nlohmann::json& value) { return value.dump(); };
  return {"optimizer.lr=" + number(optimizer["lr"]),
          "optimizer.betas=" + optimizer["betas"].dump(),
          "optimizer.eps=" + number(optimizer["eps"]),
          "optimizer.weight_decay=" + number(optimizer["weight_decay"]),
          "optimizer.clip_grad_norm=" + number(optimizer["clip_grad_norm"])};
}

class Oracle : public testing::TestWithParam<std::string> {
 protected:
  // Runs the case on `ranks` ranks as threads and compares everything with the golden file.
  void check(int ranks, std::vector<std::string> extra) {
    const fs::path dir = golden() / GetParam();
    const nlohmann::json info = nlohmann::json::parse(std::ifstream(dir / "case.json"));
    if (info["batch"].get<int>() % ranks != 0) GTEST_SKIP() << "the batch doesn't divide by " << ranks;
    const fs::path out = fs::path(testing::TempDir()) / ("probe-" + GetParam() + "-" + std::to_string(ranks) + ".safetensors");
    ProbeOptions options;
    options.hf_dir = dir.string();
    options.tokens = (dir / "tokens.safetensors").string();
    options.out = out.string();
    options.logits = true;
    std::vector<std::string> sets = optimizer_sets(info["optimizer"]);
    sets.insert(sets.end(), extra.begin(), extra.end());
    const Config config = probe_config(options, sets);
    if (ranks == 1) {
      auto recorder = std::make_unique<FlightRecorder>(0);
      auto world = make_self_communicator("world", *recorder);
      RankContext rank(config, std::move(recorder), std::move(world), 1);
      probe(rank, config, options);
    } else {
      ThreadWorld world(ranks);
      run_ranks(world, ranks, [&](int r) {
        auto recorder = std::make_unique<FlightRecorder>(r);
        auto communicator = world.communicator(r, *recorder);
        RankContext rank(config, std::move(recorder), std::move(communicator), ranks);
        probe(rank, config, options);
      });
    }
    const SafetensorsReader ours(out.string());
    const SafetensorsReader expected((dir / "expected.safetensors").string());
    expect_close(ours, expected);
    fs::remove(out);
  }

 private:
  static void run_ranks(ThreadWorld& world, int ranks, const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    std::mutex mutex;
    std::string failure;
    for (int r = 0; r < ranks; ++r) {
      threads.emplace_back([&, r] {
        try {
          body(r);
        } catch (const std::exception& error) {
          const std::lock_guard lock(mutex);
          if (failure.empty()) failure = error.what();
          world.abort(error.what());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(failure, "");
  }

  static void expect_close(const SafetensorsReader& ours, const SafetensorsReader& expected) {
    const std::vector<double> loss = values_of(ours, "loss");
    const std::vector<double> expected_loss = values_of(expected, "loss");
    ASSERT_EQ(loss.size(), expected_loss.size());
    for (size_t i = 0; i < loss.size(); ++i) {
      EXPECT_LE(std::abs(loss[i] - expected_loss[i]) / expected_loss[i], kLossBound) << "step " << i;
    }
    for (const char* kind : {"logits", "grad_norm", "grad.", "weight."}) {
      const Comparison result = compare(ours, expected, kind);
      EXPECT_LE(result.error, kTensorBound) << kind << ": worst " << result.worst;
      EXPECT_GT(result.count, 0) << kind;
      RecordProperty(kind, std::to_string(result.error));
    }
    // Nothing more and nothing less than what PyTorch has.
    EXPECT_EQ(ours.names(), expected.names());
  }
};

TEST_P(Oracle, OneRank) { check(1, {"run.threads=2"}); }
TEST_P(Oracle, TwoRanks) { check(2, {"run.threads=1"}); }
TEST_P(Oracle, FourRanks) { check(4, {"run.threads=1"}); }
TEST_P(Oracle, MicrobatchesOfOne) { check(1, {"run.threads=1", "batch.micro=1"}); }
TEST_P(Oracle, SelectiveRecomputation) { check(1, {"run.threads=1", "recompute.mode=selective"}); }
TEST_P(Oracle, FullRecomputation) { check(2, {"run.threads=1", "recompute.mode=full"}); }

INSTANTIATE_TEST_SUITE_P(Golden, Oracle, testing::ValuesIn(case_names()),
                         [](const auto& p) { return p.param; });

}  // namespace
}  // namespace trireme
