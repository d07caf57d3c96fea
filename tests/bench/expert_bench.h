// The frame of `scripts/bench --experts`: a device, programs that take turns, and the list of sections. A section is a file
// expert_*.cc with one function of sections(); it prints its own table.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/device/device.h"
#include "core/tensor/tensor.h"

namespace trireme::bench {

struct ExpertOptions {
  Device device;
  int threads = 0;  // 0: all cores
  int rounds = 9;
  double seconds = 0.05;  // of one turn, at least
  std::vector<DType> dtypes = {DType::f32, DType::bf16};
  bool processor_time = false;  // instead of the time that passes: for a machine that others use
  int64_t experts = 8;
  int64_t rows = 2048;  // of all experts together
  std::string only;     // sections whose name contains this
};

struct ExpertSection {
  std::string name;
  void (*run)(Stream& stream, const ExpertOptions& options);
};

// expert_products.cc: grouped linear layers against one after the other, and against one dense layer.
void bench_expert_products(Stream& stream, const ExpertOptions& options);

// expert_layers.cc: a layer with experts against a dense one; rows to experts and back.
void bench_expert_layers(Stream& stream, const ExpertOptions& options);
void bench_expert_permutation(Stream& stream, const ExpertOptions& options);

inline std::vector<ExpertSection> sections() {
  return {
      {"products", bench_expert_products}, {"permutation", bench_expert_permutation}, {"layers", bench_expert_layers}};
}

// Seconds of one call of each program in each round: [program][round]. In a round each has a turn of `options.seconds`
// at least, one after the other, so that a slow spell of the machine hits all of them. `call` gets a number that
// rises by one with each of its calls, and queues work on the stream.
using Program = std::function<void(int64_t call)>;
std::vector<std::vector<double>> take_turns(Stream& stream, const ExpertOptions& options,
                                            const std::vector<Program>& programs);

double median(std::vector<double> values);
// The median over the rounds of a[round] / b[round].
double median_ratio(const std::vector<double>& a, const std::vector<double>& b);

// Uniform numbers in [-1, 1).
Tensor random_tensor(Stream& stream, DType dtype, Shape shape, uint64_t seed);

}  // namespace trireme::bench
