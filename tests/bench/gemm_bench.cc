// GFLOP/s of matrix multiplication for the shapes of training: every linear layer's forward product, input gradient
// and weight gradient, and the tiles of attention. Columns: GFLOP/s, and the share of the peak that
// `measure_peak_gflops` finds at the start.
#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/device/cpu_features.h"
#include "core/device/thread_pool.h"
#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/gemm_backend.h"
#include "core/ops/cpu/gemm_peak.h"

namespace trireme::cpu {
namespace {

struct Layer {
  const char* model;
  int64_t tokens, in, out;
};

constexpr Layer kLayers[] = {
    {"gpt2", 1024, 768, 2304},  {"gpt2", 1024, 768, 768},  {"gpt2", 1024, 768, 3072}, {"gpt2", 1024, 3072, 768},
    {"gpt2", 256, 768, 50257},  {"llama", 4096, 384, 640}, {"llama", 4096, 384, 384}, {"llama", 4096, 384, 2048},
    {"llama", 4096, 1024, 384}, {"llama", 4096, 384, 256},
};

struct Product {
  std::string name;
  int64_t m, n, k;
  Transpose ta, tb;
  float beta;
  int64_t pad;
};

std::vector<Product> products() {
  std::vector<Product> list;
  for (const Layer& layer : kLayers) {
    const auto [model, tokens, in, out] = layer;
    const std::string name =
        std::string(model) + "/" + std::to_string(tokens) + "x" + std::to_string(in) + "x" + std::to_string(out);
    list.push_back({name + "/forward", tokens, out, in, Transpose::no, Transpose::yes, 0.0f, 0});
    list.push_back({name + "/backward_input", tokens, in, out, Transpose::no, Transpose::no, 0.0f, 0});
    list.push_back({name + "/backward_weight", out, in, tokens, Transpose::yes, Transpose::no, 1.0f, 0});
  }
  constexpr int64_t kRow = 704;  // tiles of attention lie in rows of a fused qkv
  list.push_back({"tile/64x64x64/scores", 64, 64, 64, Transpose::no, Transpose::yes, 0.0f, kRow});
  list.push_back({"tile/128x64x64/scores", 128, 64, 64, Transpose::no, Transpose::yes, 0.0f, kRow});
  list.push_back({"tile/64x256x64/scores", 64, 256, 64, Transpose::no, Transpose::yes, 0.0f, kRow});
  list.push_back({"tile/64x64x64/values", 64, 64, 64, Transpose::no, Transpose::no, 1.0f, kRow});
  list.push_back({"tile/64x64x256/values", 64, 64, 256, Transpose::no, Transpose::no, 1.0f, kRow});
  list.push_back({"tile/64x64x64/gradient", 64, 64, 64, Transpose::yes, Transpose::no, 1.0f, kRow});
  return list;
}

// Zeros would do for time, but denormals must not appear: every element is 1.
std::vector<char> ones(int64_t count, DType dtype) {
  std::vector<char> memory(static_cast<size_t>(count * dtype_bytes(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::f32) reinterpret_cast<float*>(memory.data())[i] = 1.0f;
    if (dtype == DType::bf16) reinterpret_cast<bf16*>(memory.data())[i] = bf16(1.0f);
  }
  return memory;
}

// Tiles run as attention runs them: every thread its own, by gemm_serial.
void run(benchmark::State& state, ThreadPool& pool, const Product& product, DType in, DType out, double peak) {
  const bool is_tile = product.pad > 0;
  const int64_t num_calls = is_tile ? pool.size() * 16 : 1;
  const int64_t a_rows = product.ta == Transpose::no ? product.m : product.k;
  const int64_t b_rows = product.tb == Transpose::no ? product.k : product.n;
  const int64_t a_ld = (product.ta == Transpose::no ? product.k : product.m) + product.pad;
  const int64_t b_ld = (product.tb == Transpose::no ? product.n : product.k) + product.pad;
  const int64_t c_ld = product.n + product.pad;
  const std::vector<char> a = ones(a_rows * a_ld, in);
  const std::vector<char> b = ones(b_rows * b_ld, in);
  std::vector<std::vector<char>> c(static_cast<size_t>(is_tile ? pool.size() * 16 : 1), ones(product.m * c_ld, out));
  const auto args = [&](int64_t i) -> GemmArgs {
    return {.m = product.m,
            .n = product.n,
            .k = product.k,
            .a = {.data = a.data(), .dtype = in, .ld = a_ld, .transpose = product.ta},
            .b = {.data = b.data(), .dtype = in, .ld = b_ld, .transpose = product.tb},
            .c = {.data = c[static_cast<size_t>(i)].data(), .dtype = out, .ld = c_ld},
            .beta = product.beta};
  };
  state.SetLabel(gemm_backend_name(choose_gemm_backend(cpu_features(), args(0))));
  for (auto _ : state) {
    if (is_tile) {
      pool.run(num_calls, [&](int64_t i) {
        for (int repeat = 0; repeat < 8; ++repeat) gemm_serial(args(i));
      });
    } else {
      gemm(pool, args(0));
    }
  }
  const double calls = static_cast<double>(state.iterations() * num_calls * (is_tile ? 8 : 1));
  const double flops = 2.0 * static_cast<double>(product.m * product.n * product.k) * calls;
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsRate);
  state.counters["of_peak_%"] = benchmark::Counter(flops * 1e-7 / peak, benchmark::Counter::kIsRate);
}

void register_all(ThreadPool& pool) {
  for (const auto& [in, out] :
       {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}}) {
    const double peak = measure_peak_gflops(pool, in);
    if (in == out) {
      benchmark::AddCustomContext("peak of " + dtype_name(in) + ", " + std::to_string(pool.size()) + " threads",
                                  std::to_string(static_cast<int>(peak)) + " GFLOP/s");
    }
    for (const Product& product : products()) {
      const std::string name =
          dtype_name(in) + "->" + dtype_name(out) + "/threads:" + std::to_string(pool.size()) + "/" + product.name;
      const auto body = [&pool, product, in = in, out = out, peak](benchmark::State& state) {
        run(state, pool, product, in, out, peak);
      };
      benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->MinTime(0.2)->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace trireme::cpu

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("cpu features", trireme::cpu_features().str());
  trireme::ThreadPool one(1);
  trireme::ThreadPool all(static_cast<int>(std::thread::hardware_concurrency()));
  trireme::cpu::register_all(one);
  if (all.size() > 1) trireme::cpu::register_all(all);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
