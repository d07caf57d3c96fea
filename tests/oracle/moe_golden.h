// The golden files of layers with experts (README.md, "Layers with experts"), and the configuration that one says.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/formats/safetensors.h"

namespace trireme::golden {

// M, B, T, N, C, F, E of all cases.
inline constexpr int64_t kMicrobatches = 2, kBatch = 2, kSequence = 16, kTokens = kBatch * kSequence, kHidden = 16,
                         kWidth = 8, kExperts = 8;

// A golden file, all of a tensor at a time.
class MoeGolden {
 public:
  explicit MoeGolden(const std::string& name);

  template <class T>
  std::vector<T> read(const std::string& name) const {
    std::vector<T> values(static_cast<size_t>(reader_.spec(name).numel()));
    reader_.read(name, 0, std::span<T>(values));
    return values;
  }
  // Number `i` along the first dim.
  template <class T>
  std::vector<T> read(const std::string& name, int64_t i) const {
    const int64_t count = reader_.spec(name).numel() / reader_.spec(name).shape[0];
    std::vector<T> values(static_cast<size_t>(count));
    reader_.read(name, i * count, std::span<T>(values));
    return values;
  }
  const std::string& setting(const std::string& name) const { return reader_.metadata().at(name); }
  double number(const std::string& name) const { return std::stod(setting(name)); }
  int64_t whole(const std::string& name) const { return std::stoll(setting(name)); }
  bool flag(const std::string& name) const { return setting(name) == "true"; }

 private:
  SafetensorsReader reader_;
};

inline constexpr double kBound = 2e-6;  // ‖got − want‖ / ‖want‖; PyTorch's own fp32 runs stay below 3e-7
void expect_near(const std::vector<double>& got, const std::vector<double>& want, const std::string& what);

// One layer with the case's experts.
ModelConfig model_of(const MoeGolden& golden);
MoeConfig moe_of(const MoeGolden& golden);

}  // namespace trireme::golden
