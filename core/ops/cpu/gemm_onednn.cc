// fp32 and bf16 products by oneDNN, one thread.
#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/cpu/gemm_backend.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

// oneDNN of most distributions threads with OpenMP and takes the number of threads from the calling thread's
// setting: 1 keeps every call on the thread that makes it, and no team is ever started. The function is looked up
// by name because a oneDNN built without OpenMP brings none, and needs none.
void stay_serial() {
  using SetNumThreads = void (*)(int);
  thread_local const bool done = [] {
    if (void* symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads")) std::bit_cast<SetNumThreads>(symbol)(1);
    return true;
  }();
  static_cast<void>(done);
}

char letter_of(Transpose transpose) { return transpose == Transpose::yes ? 'T' : 'N'; }

[[noreturn]] void fail(const dnnl::error& error) {
  throw MachineError({.what = "oneDNN could not multiply matrices", .found = error.message});
}

// What a matmul primitive is made for: everything but the addresses.
struct ShapeKey {
  int64_t m, n, k, a_ld, b_ld, c_ld;
  uint32_t alpha_bits;
  uint32_t kinds;  // transposes, element types and beta, a bit each

  bool operator==(const ShapeKey&) const = default;
};

ShapeKey key_of(const GemmArgs& args) {
  const uint32_t kinds = (args.a.transpose == Transpose::yes ? 1u : 0u) |
                         (args.b.transpose == Transpose::yes ? 2u : 0u) | (args.a.dtype == DType::bf16 ? 4u : 0u) |
                         (args.c.dtype == DType::bf16 ? 8u : 0u) | (args.beta != 0.0f ? 16u : 0u);
  return {args.m, args.n, args.k, args.a.ld, args.b.ld, args.c.ld, std::bit_cast<uint32_t>(args.alpha), kinds};
}

struct ShapeHash {
  size_t operator()(const ShapeKey& key) const {
    uint64_t hash = key.alpha_bits | uint64_t{key.kinds} << 32;
    for (const int64_t x : {key.m, key.n, key.k, key.a_ld, key.b_ld, key.c_ld}) {
      hash = (hash ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

dnnl::memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc describe(int64_t rows, int64_t cols, const MatrixRef& x) {
  const auto strides = x.transpose == Transpose::no ? dnnl::memory::dims{x.ld, 1} : dnnl::memory::dims{1, x.ld};
  return {{rows, cols}, type_of(x.dtype), strides};
}

// A product of one shape, ready to run on the thread that made it.
class Product {
 public:
  Product(const dnnl::engine& engine, const GemmArgs& args) {
    const dnnl::memory::desc c_desc({args.m, args.n}, type_of(args.c.dtype), dnnl::memory::dims{args.c.ld, 1});
    const dnnl::matmul::desc desc(describe(args.m, args.k, args.a), describe(args.k, args.n, args.b), c_desc);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (args.alpha != 1.0f) attributes.set_output_scales(0, {args.alpha});
    if (args.beta != 0.0f) {
      dnnl::post_ops sum;
      sum.append_sum(args.beta);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, engine);
    primitive_ = dnnl::matmul(primitive_desc);
    a_ = dnnl::memory(primitive_desc.src_desc(), engine, DNNL_MEMORY_NONE);
    b_ = dnnl::memory(primitive_desc.weights_desc(), engine, DNNL_MEMORY_NONE);
    c_ = dnnl::memory(primitive_desc.dst_desc(), engine, DNNL_MEMORY_NONE);
    scratch_ = dnnl::memory(primitive_desc.scratchpad_desc(), engine, DNNL_MEMORY_NONE);
    scratch_floats_ = static_cast<int64_t>(primitive_desc.scratchpad_desc().get_size() / sizeof(float)) + 1;
    arguments_ = {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}, {DNNL_ARG_SCRATCHPAD, scratch_}};
  }

  void run(const dnnl::stream& stream, const GemmArgs& args) {
    a_.set_data_handle(const_cast<void*>(args.a.data));
    b_.set_data_handle(const_cast<void*>(args.b.data));
    c_.set_data_handle(args.c.data);
    scratch_.set_data_handle(thread_scratch(0, scratch_floats_));
    primitive_.execute(stream, arguments_);
  }

 private:
  dnnl::matmul primitive_;
  dnnl::memory a_, b_, c_, scratch_;
  int64_t scratch_floats_ = 0;
  std::unordered_map<int, dnnl::memory> arguments_;
};

// The products of one thread. Making one takes 0.2 to 0.8 ms (code is generated), running it again nothing.
class ProductCache {
 public:
  void run(const GemmArgs& args) {
    const ShapeKey key = key_of(args);
    auto found = products_.find(key);
    if (found == products_.end()) {
      if (products_.size() >= kMaxProducts) products_.clear();
      found = products_.emplace(key, Product(engine_, args)).first;
    }
    found->second.run(stream_, args);
  }

 private:
  static constexpr size_t kMaxProducts = 4096;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::unordered_map<ShapeKey, Product, ShapeHash> products_;
};

void run_in_few_shapes(ProductCache& cache, const GemmArgs& args);

// A sum into bf16 can't be cut in two, which would round twice: it is made in fp32, some rows at a time.
void sum_in_f32(ProductCache& cache, const GemmArgs& args) {
  constexpr int64_t kBlockRows = 256;
  float* sums = thread_scratch(/*slot=*/1, kBlockRows * args.n);
  for (int64_t row = 0; row < args.m; row += kBlockRows) {
    GemmArgs block = rectangle_of(args, row, std::min(kBlockRows, args.m - row), 0, args.n);
    bf16* rounded = static_cast<bf16*>(block.c.data);
    block.c = {.data = sums, .dtype = DType::f32, .ld = args.n};
    block.beta = 0.0f;
    run_in_few_shapes(cache, block);
    for (int64_t i = 0; i < block.m; ++i) {
      bf16* to = rounded + i * args.c.ld;
      const float* from = sums + i * args.n;
      const bool add = args.beta != 0.0f;
#pragma omp simd
      for (int64_t j = 0; j < args.n; ++j) math::store(to + j, add ? math::load(to + j) + from[j] : from[j]);
    }
  }
}

// Most shapes come back every step. But in a mixture of experts an expert's number of tokens, which is m of its
// products and k of its weight gradients, is always another: making a product for each would cost more than running
// it. So m and k are split into a multiple of 64 and a rest, of which there are few.
void run_in_few_shapes(ProductCache& cache, const GemmArgs& args) {
  constexpr int64_t kStep = 64;
  const int64_t rest_m = args.m > kStep ? args.m % kStep : 0;
  const int64_t rest_k = args.k > kStep ? args.k % kStep : 0;
  if (rest_m != 0) {
    const int64_t row = args.m - rest_m;
    GemmArgs part = args;
    part.m = row;
    run_in_few_shapes(cache, part);
    part.m = rest_m;
    part.a.data = element_of(args.a, row, 0);
    part.c.data = static_cast<char*>(args.c.data) + row * args.c.ld * dtype_bytes(args.c.dtype);
    run_in_few_shapes(cache, part);
    return;
  }
  const bool is_weight_gradient = args.a.transpose == Transpose::yes;
  if (rest_k != 0 && args.c.dtype == DType::bf16 && is_weight_gradient) return sum_in_f32(cache, args);
  if (rest_k != 0 && args.c.dtype == DType::f32) {
    const int64_t depth = args.k - rest_k;
    GemmArgs part = args;
    part.k = depth;
    cache.run(part);
    part.k = rest_k;
    part.a.data = element_of(args.a, 0, depth);
    part.b.data = element_of(args.b, depth, 0);
    part.beta = 1.0f;
    cache.run(part);
    return;
  }
  cache.run(args);
}

}  // namespace

void gemm_onednn_sgemm(const GemmArgs& args) {
  stay_serial();
  const dnnl_status_t status =
      dnnl_sgemm(letter_of(args.a.transpose), letter_of(args.b.transpose), args.m, args.n, args.k, args.alpha,
                 static_cast<const float*>(args.a.data), args.a.ld, static_cast<const float*>(args.b.data), args.b.ld,
                 args.beta, static_cast<float*>(args.c.data), args.c.ld);
  if (status != dnnl_success) fail(dnnl::error(status, "dnnl_sgemm failed"));
}

void gemm_onednn_matmul(const GemmArgs& args) {
  stay_serial();
  try {
    thread_local ProductCache cache;
    run_in_few_shapes(cache, args);
  } catch (const dnnl::error& error) {
    fail(error);
  }
}

}  // namespace trireme::cpu
