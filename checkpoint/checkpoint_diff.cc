#include "checkpoint/checkpoint_diff.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "checkpoint/hugging_face_boxes.h"

namespace trireme {

namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

double distance(float a, float b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  const double d = std::fabs(static_cast<double>(a) - static_cast<double>(b));
  return std::isfinite(d) ? d : kInfinite;
}

// Reads pieces of both and keeps count.
class TensorComparison {
 public:
  TensorComparison(const CheckpointReader& a, const StoredTensor& ta, const CheckpointReader& b, const StoredTensor& tb)
      : a_(a), b_(b), ta_(ta), tb_(tb), same_dtype_(ta.dtype == tb.dtype) {
    found_.name = ta.name;
    if (!same_dtype_) found_.note = file_dtype_name(ta.dtype) + " and " + file_dtype_name(tb.dtype);
  }

  TensorDifference run() {
    const int64_t width = std::max(file_dtype_bytes(ta_.dtype), file_dtype_bytes(tb_.dtype));
    for_each_piece(ta_.shape, kPieceBytes / width, [&](const Box& piece) {
      add(piece);
      seen_ += piece.numel();
    });
    if (found_.largest > 0) found_.relative = largest_b_ > 0 ? found_.largest / largest_b_ : kInfinite;
    return found_;
  }

 private:
  bool equal_bytes(const Box& piece) {
    if (!same_dtype_) return false;
    raw_a_.resize(static_cast<size_t>(piece.numel() * file_dtype_bytes(ta_.dtype)));
    raw_b_.resize(raw_a_.size());
    a_.read_raw(ta_, piece, raw_a_);
    b_.read_raw(tb_, piece, raw_b_);
    return std::memcmp(raw_a_.data(), raw_b_.data(), raw_a_.size()) == 0;
  }

  void add(const Box& piece) {
    const auto n = static_cast<size_t>(piece.numel());
    const bool equal = equal_bytes(piece);
    values_b_.resize(n);
    b_.read(tb_, piece, std::span<float>(values_b_));
    for (const float v : values_b_) {
      if (std::isfinite(v)) largest_b_ = std::max(largest_b_, std::fabs(static_cast<double>(v)));
    }
    if (equal) return;
    values_a_.resize(n);
    a_.read(ta_, piece, std::span<float>(values_a_));
    for (size_t i = 0; i < n; ++i) {
      // Both dtypes widen to fp32 without loss, so that equal bits there are equal bits here.
      if (std::bit_cast<uint32_t>(values_a_[i]) == std::bit_cast<uint32_t>(values_b_[i])) continue;
      const double d = distance(values_a_[i], values_b_[i]);
      if (found_.num_different++ > 0 && d <= found_.largest) continue;
      found_.largest = d;
      found_.at = seen_ + static_cast<int64_t>(i);
      found_.a = static_cast<double>(values_a_[i]);
      found_.b = static_cast<double>(values_b_[i]);
    }
  }

  const CheckpointReader& a_;
  const CheckpointReader& b_;
  const StoredTensor& ta_;
  const StoredTensor& tb_;
  bool same_dtype_;
  TensorDifference found_;
  int64_t seen_ = 0;
  double largest_b_ = 0;
  std::vector<std::byte> raw_a_;
  std::vector<std::byte> raw_b_;
  std::vector<float> values_a_;
  std::vector<float> values_b_;
};

void compare_state(const Manifest& a, const Manifest& b, std::vector<std::string>& out) {
  const auto number = [&](const char* name, int64_t x, int64_t y) {
    if (x != y) out.push_back(std::string(name) + ": " + std::to_string(x) + " and " + std::to_string(y));
  };
  number("step", a.step, b.step);
  number("consumed samples", a.consumed_samples, b.consumed_samples);
  number("seed", a.seed, b.seed);
}

// Farthest first: what can't be compared, then by relative distance.
bool farther(const TensorDifference& x, const TensorDifference& y) {
  if (x.comparable != y.comparable) return !x.comparable;
  return x.relative > y.relative;
}

}  // namespace

bool CheckpointDifference::within(double tolerance) const {
  return state.empty() && std::all_of(tensors.begin(), tensors.end(), [&](const TensorDifference& difference) {
           return difference.comparable && difference.relative <= tolerance;
         });
}

CheckpointDifference compare_checkpoints(const CheckpointReader& a, const CheckpointReader& b) {
  CheckpointDifference result;
  compare_state(a.manifest(), b.manifest(), result.state);
  for (const StoredTensor& ta : a.manifest().tensors) {
    if (!b.contains(ta.name)) {
      result.tensors.push_back({.name = ta.name, .note = "only in A", .comparable = false});
      continue;
    }
    const StoredTensor& tb = b.tensor(ta.name);
    if (!(ta.shape == tb.shape)) {
      result.tensors.push_back(
          {.name = ta.name, .note = ta.shape.str() + " and " + tb.shape.str(), .comparable = false});
      continue;
    }
    ++result.num_compared;
    TensorDifference difference = TensorComparison(a, ta, b, tb).run();
    if (difference.num_different > 0 || ta.dtype != tb.dtype) result.tensors.push_back(std::move(difference));
  }
  for (const StoredTensor& tb : b.manifest().tensors) {
    if (!a.contains(tb.name)) result.tensors.push_back({.name = tb.name, .note = "only in B", .comparable = false});
  }
  std::stable_sort(result.tensors.begin(), result.tensors.end(), farther);
  return result;
}

}  // namespace trireme
