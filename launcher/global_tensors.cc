#include "launcher/global_tensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace trireme {

namespace {

// A NaN that no computation makes: what an element has before a rank's own value is read over it.
constexpr uint32_t kNobody = 0x7fc5'ca1eu;

double norm_of(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

double largest_norm(const GlobalTensors& tensors) {
  double largest = 0;
  for (const auto& [name, values] : tensors) largest = std::max(largest, norm_of(values));
  return largest;
}

}  // namespace

void GlobalCollector::add(Stream& stream, const std::vector<ParameterRef>& parameters, Bucket::Buffer buffer,
                          int rank) {
  std::vector<float> host;
  for (const ParameterRef& ref : parameters) {
    if (!Bucket::belongs(*ref.parameter, buffer)) continue;
    host.assign(static_cast<size_t>(ref.parameter->shape.numel()), std::bit_cast<float>(kNobody));
    ref.bucket->read(stream, *ref.parameter, buffer, host.data());
    merge(ref.parameter->name, host, rank);
  }
}

void GlobalCollector::merge(const std::string& name, const std::vector<float>& values, int rank) {
  const std::lock_guard lock(mutex_);
  std::vector<float>& all = tensors_[name];
  std::vector<int>& holder = holders_[name];
  all.resize(values.size(), std::bit_cast<float>(kNobody));
  holder.resize(values.size(), -1);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    if (bits == kNobody) continue;
    if (holder[i] < 0) {
      holder[i] = rank;
      all[i] = values[i];
    } else if (bits != std::bit_cast<uint32_t>(all[i]) && !divergence_.contains(name)) {
      divergence_[name] = "divergence between replicas: the " + kind_ + " of " + name + " at element " +
                          std::to_string(i) + " is " + std::to_string(all[i]) + " on rank " +
                          std::to_string(holder[i]) + " and " + std::to_string(values[i]) + " on rank " +
                          std::to_string(rank);
    }
  }
}

std::vector<std::string> GlobalCollector::findings() const {
  std::vector<std::string> list;
  for (const auto& [name, text] : divergence_) list.push_back(text);
  for (const auto& [name, holder] : holders_) {
    const auto nobodys = std::count(holder.begin(), holder.end(), -1);
    if (nobodys == 0) continue;
    list.push_back("no rank holds the " + kind_ + " of " + std::to_string(nobodys) + " of " +
                   std::to_string(holder.size()) + " elements of " + name);
  }
  return list;
}

std::vector<TensorError> compare_tensors(const GlobalTensors& tensors, const GlobalTensors& reference,
                                         const std::map<std::string, std::string>& measures) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  const double floor = kNormFloor * largest_norm(reference);
  std::vector<TensorError> errors;
  for (const auto& [name, expected] : reference) {
    TensorError e{name, kInfinite, norm_of(expected)};
    const auto found = tensors.find(name);
    if (found != tensors.end() && found->second.size() == expected.size()) {
      double sum = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double difference = static_cast<double>(found->second[i]) - expected[i];
        sum += difference * difference;
      }
      const auto measure = measures.find(name);
      const double other = measure == measures.end() ? 0 : norm_of(reference.at(measure->second));
      const double scale = std::max({e.norm, floor, other});
      if (sum == 0) {
        e.error = 0;
      } else if (std::isfinite(sum) && scale > 0) {
        e.error = std::sqrt(sum) / scale;
      }
    }
    errors.push_back(e);
  }
  for (const auto& [name, values] : tensors) {
    if (!reference.contains(name)) errors.push_back({name, kInfinite, 0});
  }
  std::stable_sort(errors.begin(), errors.end(),
                   [](const TensorError& a, const TensorError& b) { return a.error > b.error; });
  return errors;
}

std::vector<std::string> unmoved(const GlobalTensors& before, const GlobalTensors& after,
                                 const GlobalTensors& gradients, double learning_rate, double least_gradient) {
  const double floor = kNormFloor * largest_norm(gradients);
  std::vector<std::string> names;
  for (const auto& [name, gradient] : gradients) {
    const double norm = norm_of(gradient);
    const double root_mean_square = norm / std::sqrt(static_cast<double>(gradient.size()));
    if (!(norm > floor && root_mean_square >= least_gradient)) continue;
    const std::vector<float>& from = before.at(name);
    const std::vector<float>& to = after.at(name);
    double sum = 0;
    for (size_t i = 0; i < from.size(); ++i) sum += std::pow(static_cast<double>(to[i]) - from[i], 2);
    if (!(std::sqrt(sum / static_cast<double>(from.size())) >= learning_rate / 10)) names.push_back(name);
  }
  return names;
}

}  // namespace trireme
