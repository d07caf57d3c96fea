#include "tests/oracle/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/formats/safetensors.h"

namespace fs = std::filesystem;

namespace trireme::golden {

namespace {

constexpr double kLossBound = 1e-6;
constexpr double kTensorBound = 1e-5;
constexpr double kFloor = 1e-4;

// Where this program was built, or where TRIREME_SOURCE_DIR says when it was carried to another machine.
fs::path root() {
  const char* moved = std::getenv("TRIREME_SOURCE_DIR");
  return fs::path(moved != nullptr ? moved : TRIREME_SOURCE_DIR) / "tests/oracle/golden";
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
  return {"optimizer.lr=" + number(optimizer["lr"]), "optimizer.betas=" + optimizer["betas"].dump(),
          "optimizer.eps=" + number(optimizer["eps"]), "optimizer.weight_decay=" + number(optimizer["weight_decay"]),
          "optimizer.clip_grad_norm=" + number(optimizer["clip_grad_norm"])};
}

nlohmann::json case_info(const std::string& name) {
  return nlohmann::json::parse(std::ifstream(root() / name / "case.json"));
}

// What the case asks for beside its model.
std::vector<std::string> sets_of(const std::string& name) {
  const nlohmann::json info = case_info(name);
  std::vector<std::string> sets = optimizer_sets(info["optimizer"]);
  for (const auto& set : info.value("sets", nlohmann::json::array())) sets.push_back(set.get<std::string>());
  return sets;
}

}  // namespace

std::vector<std::string> cases(int divisor) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(root())) {
    if (!fs::exists(entry.path() / "case.json")) continue;
    const std::string name = entry.path().filename().string();
    if (case_info(name)["batch"].get<int>() % divisor == 0) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Run make_run(const std::string& name, const std::string& out, const std::vector<std::string>& sets) {
  const fs::path dir = root() / name;
  Run run;
  run.options.hf_dir = dir.string();
  run.options.tokens = (dir / "tokens.safetensors").string();
  run.options.out = out;
  run.options.logits = true;
  std::vector<std::string> all = sets_of(name);
  all.insert(all.end(), sets.begin(), sets.end());
  run.config = probe_config(run.options, all);
  return run;
}

std::vector<std::string> probe_arguments(const std::string& name) {
  const fs::path dir = root() / name;
  std::vector<std::string> words = {dir.string(), "--tokens", (dir / "tokens.safetensors").string(), "--logits"};
  for (const std::string& set : sets_of(name)) {
    words.push_back("--set");
    words.push_back(set);
  }
  return words;
}

void expect_same(const std::string& out, const std::string& reference) {
  const SafetensorsReader ours(out);
  const SafetensorsReader expected(reference);
  for (const char* kind : {"loss", "prediction_loss"}) {
    if (!expected.contains(kind)) continue;
    const std::vector<double> loss = values_of(ours, kind);
    const std::vector<double> expected_loss = values_of(expected, kind);
    ASSERT_EQ(loss.size(), expected_loss.size());
    for (size_t i = 0; i < loss.size(); ++i) {
      EXPECT_LE(std::abs(loss[i] - expected_loss[i]) / expected_loss[i], kLossBound)
          << out << ", " << kind << " of step " << i;
    }
  }
  for (const char* kind : {"logits", "grad_norm", "grad.", "weight."}) {
    const Comparison result = compare(ours, expected, kind);
    EXPECT_LE(result.error, kTensorBound) << out << ", " << kind << ": worst " << result.worst;
    EXPECT_GT(result.count, 0) << out << ", " << kind;
  }
  // Nothing more and nothing less.
  EXPECT_EQ(ours.names(), expected.names()) << out;
}

void expect_golden(const std::string& name, const std::string& out) {
  SCOPED_TRACE(name);
  expect_same(out, (root() / name / "expected.safetensors").string());
}

double worst_error(const std::string& name, const std::string& out, const std::string& kind) {
  const SafetensorsReader expected((root() / name / "expected.safetensors").string());
  return compare(SafetensorsReader(out), expected, kind).error;
}

}  // namespace trireme::golden
