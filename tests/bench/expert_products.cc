// The products of experts: grouped_linear_* against linear_* of each expert in turn, and against one dense linear layer of as
// many multiplications.
#include <cmath>
#include <cstdio>

#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "core/random/philox.h"
#include "tests/bench/expert_bench.h"

namespace trireme::bench {

namespace {

using Offsets = std::vector<int64_t>;

// Rows of experts in proportion to `weights`.
Offsets split(int64_t rows, const std::vector<double>& weights) {
  double total = 0;
  for (const double w : weights) total += w;
  Offsets offsets = {0};
  double sum = 0;
  for (const double w : weights) {
    sum += w;
    offsets.push_back(std::llround(static_cast<double>(rows) * sum / total));
  }
  return offsets;
}

struct Load {
  const char* name;
  std::vector<Offsets> calls;  // by turns
};

// even; skewed: expert e has 1 / (e + 1) of the first one's rows; changing: other rows in every call, as in training, in
// calls that don't come back while they are timed.
std::vector<Load> loads(const ExpertOptions& options) {
  const auto n = static_cast<size_t>(options.experts);
  std::vector<double> skewed;
  for (size_t e = 0; e < n; ++e) skewed.push_back(1.0 / static_cast<double>(e + 1));
  std::vector<Load> all = {{"even", {split(options.rows, std::vector<double>(n, 1.0))}},
                           {"skewed", {split(options.rows, skewed)}},
                           {"changing", {}}};
  for (uint64_t call = 0; call < 4096; ++call) {
    std::vector<double> weights;
    for (uint64_t e = 0; e < n; ++e) {
      const float u = uniform_from_bits(philox4x32(/*key=*/1, call, e).x[0]);
      weights.push_back(0.4 + 1.2 * static_cast<double>(u));
    }
    all.back().calls.push_back(split(options.rows, weights));
  }
  return all;
}

struct Operands {
  Tensor x, dy, weight, dense_weight;    // read
  Tensor y, dx, dweight, dense_dweight;  // written
};

enum class Pass : uint8_t { forward, backward_input, backward_weight };

void grouped(Stream& stream, Pass pass, Operands& o, const Offsets& offsets) {
  switch (pass) {
    case Pass::forward: return ops::grouped_linear_forward(stream, o.x, o.weight, offsets, o.y);
    case Pass::backward_input: return ops::grouped_linear_backward_input(stream, o.dy, o.weight, offsets, o.dx);
    case Pass::backward_weight:
      return ops::grouped_linear_backward_weight(stream, o.dy, o.x, offsets, o.dweight, /*accumulate=*/true);
  }
}

void dense(Stream& stream, Pass pass, const Tensor& x, const Tensor& dy, const Tensor& weight, Tensor& y, Tensor& dx,
           Tensor& dweight) {
  Tensor none;
  switch (pass) {
    case Pass::forward: return ops::linear_forward(stream, x, weight, none, y);
    case Pass::backward_input: return ops::linear_backward_input(stream, dy, weight, dx, /*accumulate=*/false);
    case Pass::backward_weight: return ops::linear_backward_weight(stream, dy, x, dweight, none, /*accumulate=*/true);
  }
}

void looped(Stream& stream, Pass pass, Operands& o, const Offsets& offsets) {
  const int64_t out = o.y.dim(1);
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    const int64_t begin = offsets[g];
    const int64_t end = offsets[g + 1];
    const int64_t row = static_cast<int64_t>(g) * out;
    Tensor y = o.y.slice(begin, end);
    Tensor dx = o.dx.slice(begin, end);
    Tensor dweight = o.dweight.slice(row, row + out);
    dense(stream, pass, o.x.slice(begin, end), o.dy.slice(begin, end), o.weight.slice(row, row + out), y, dx, dweight);
  }
}

void bench_layer(Stream& stream, const ExpertOptions& options, DType dtype, const char* name, int64_t in, int64_t out) {
  const int64_t rows = options.rows;
  const int64_t all_out = options.experts * out;
  Operands o{.x = random_tensor(stream, dtype, {rows, in}, 1),
             .dy = random_tensor(stream, dtype, {rows, out}, 2),
             .weight = random_tensor(stream, dtype, {all_out, in}, 3),
             .dense_weight = random_tensor(stream, dtype, {out, in}, 4),
             .y = Tensor::empty(stream, {rows, out}, dtype),
             .dx = Tensor::empty(stream, {rows, in}, dtype),
             .dweight = random_tensor(stream, DType::f32, {all_out, in}, 5),
             .dense_dweight = random_tensor(stream, DType::f32, {out, in}, 6)};
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  for (const auto& [pass, pass_name] : {std::pair{Pass::forward, "forward"},
                                        {Pass::backward_input, "backward input"},
                                        {Pass::backward_weight, "backward weight"}}) {
    for (const Load& load : loads(options)) {
      const auto offsets = [&](int64_t call) -> const Offsets& {
        return load.calls[static_cast<size_t>(call) % load.calls.size()];
      };
      const auto times = take_turns(
          stream, options,
          {[&, pass = pass](int64_t call) { grouped(stream, pass, o, offsets(call)); },
           [&, pass = pass](int64_t call) { looped(stream, pass, o, offsets(call)); },
           [&, pass = pass](int64_t) { dense(stream, pass, o.x, o.dy, o.dense_weight, o.y, o.dx, o.dense_dweight); }});
      std::printf("%-5s %-18s %-16s %-9s %10.1f %12.2f %12.2f\n", dtype_name(dtype).c_str(), name, pass_name, load.name,
                  flops * 1e-9 / median(times[0]), median_ratio(times[1], times[0]), median_ratio(times[2], times[0]));
      std::fflush(stdout);
    }
  }
}

}  // namespace

void bench_expert_products(Stream& stream, const ExpertOptions& options) {
  std::printf("%lld experts, %lld rows\n", static_cast<long long>(options.experts),
              static_cast<long long>(options.rows));
  std::printf("%-5s %-18s %-16s %-9s %10s %12s %12s\n", "dtype", "layer", "pass", "rows", "GFLOP/s", "of loop",
              "of dense");
  for (const DType dtype : options.dtypes) {
    bench_layer(stream, options, dtype, "up 384 to 1024", 384, 1024);
    bench_layer(stream, options, dtype, "down 512 to 384", 512, 384);
    bench_layer(stream, options, dtype, "up 1024 to 1408", 1024, 1408);
  }
}

}  // namespace trireme::bench
