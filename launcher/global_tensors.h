// Whole parameters out of the parts that ranks hold, and their comparison with those of another run.
//
// Where several ranks hold the same element their values must have the same bits; where they don't, that is a finding:
// divergence between replicas.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/zero/bucket.h"

namespace trireme {

using GlobalTensors = std::map<std::string, std::vector<float>>;  // by the parameter's name, flat and global

// Thread safety: all calls may come from any rank's thread.
class GlobalCollector {
 public:
  // `kind` is for messages: "gradient".
  explicit GlobalCollector(std::string kind) : kind_(std::move(kind)) {}

  // Adds what `rank` holds of its parameters.
  void add(Stream& stream, const std::vector<ParameterRef>& parameters, Bucket::Buffer buffer, int rank);
  // After every rank's `add`.
  GlobalTensors take() { return std::move(tensors_); }
  // One sentence each: replicas that differ, elements that no rank holds.
  std::vector<std::string> findings() const;

 private:
  void merge(const std::string& name, const std::vector<float>& values, int rank);

  std::string kind_;
  std::mutex mutex_;
  GlobalTensors tensors_;                            // kNobody where no rank has been seen to hold the element
  std::map<std::string, std::vector<int>> holders_;  // the first rank that held each element, -1: none
  std::map<std::string, std::string> divergence_;    // by parameter
};

// ‖a − b‖ / max(‖b‖, 1e-4 · the largest norm of its kind): of one parameter. A NaN is infinitely wrong.
struct TensorError {
  std::string name;
  double error = 0;
  double norm = 0;  // of the reference
};

inline constexpr double kNormFloor = 1e-4;  // of the largest norm

// Of every parameter of the reference, worst first. A parameter that `tensors` lacks is infinitely wrong. What is zero but
// for rounding is measured against the norm of another one: name -> its name.
std::vector<TensorError> compare_tensors(const GlobalTensors& tensors, const GlobalTensors& reference,
                                         const std::map<std::string, std::string>& measures = {});

// Parameters that should have moved and didn't: their gradient is above the floor, and its root mean square at least
// `least_gradient`, but that of their change is below a tenth of the learning rate.
std::vector<std::string> unmoved(const GlobalTensors& before, const GlobalTensors& after,
                                 const GlobalTensors& gradients, double learning_rate, double least_gradient);

}  // namespace trireme
