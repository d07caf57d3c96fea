#include "parallel/comm/reduce.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace trireme {

namespace {

// Elements that are accumulated at a time: small enough to stay in the first-level cache.
constexpr int64_t kBlock = 1024;

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

template <ReduceOp kOp, class A>
A combine(A a, A b) {
  if constexpr (kOp == ReduceOp::sum) {
    if constexpr (std::is_integral_v<A>) {
      using U = std::make_unsigned_t<A>;  // wraps
      return static_cast<A>(static_cast<U>(a) + static_cast<U>(b));
    } else {
      return a + b;
    }
  } else if constexpr (std::is_integral_v<A>) {
    return kOp == ReduceOp::max ? std::max(a, b) : std::min(a, b);
  } else {
    const bool take = kOp == ReduceOp::max ? b > a : b < a;
    return take || b != b ? b : a;
  }
}

// With `n` known at compile time these loops become vector code.
template <ReduceOp kOp, class T>
inline __attribute__((always_inline)) void reduce_block(std::span<const void* const> inputs, int64_t begin, T* output,
                                                        int64_t n) {
  using A = Accumulator<T>;
  alignas(64) A sum[kBlock];
  const T* first = static_cast<const T*>(inputs[0]) + begin;
  for (int64_t i = 0; i < n; ++i) sum[i] = static_cast<A>(first[i]);
  for (size_t r = 1; r < inputs.size(); ++r) {
    const T* next = static_cast<const T*>(inputs[r]) + begin;
    for (int64_t i = 0; i < n; ++i) sum[i] = combine<kOp, A>(sum[i], static_cast<A>(next[i]));
  }
  for (int64_t i = 0; i < n; ++i) output[begin + i] = static_cast<T>(sum[i]);
}

template <ReduceOp kOp, class T>
void reduce_typed(std::span<const void* const> inputs, void* output, int64_t n) {
  T* out = static_cast<T*>(output);
  int64_t begin = 0;
  for (; begin + kBlock <= n; begin += kBlock) reduce_block<kOp, T>(inputs, begin, out, kBlock);
  if (begin < n) reduce_block<kOp, T>(inputs, begin, out, n - begin);
}

template <ReduceOp kOp>
void reduce_dtype(DType dtype, std::span<const void* const> inputs, void* output, int64_t n) {
  switch (dtype) {
    case DType::f32: return reduce_typed<kOp, float>(inputs, output, n);
    case DType::bf16: return reduce_typed<kOp, bf16>(inputs, output, n);
    case DType::f64: return reduce_typed<kOp, double>(inputs, output, n);
    case DType::i32: return reduce_typed<kOp, int32_t>(inputs, output, n);
    case DType::i64: return reduce_typed<kOp, int64_t>(inputs, output, n);
    case DType::u8: return reduce_typed<kOp, uint8_t>(inputs, output, n);
  }
}

}  // namespace

void reduce_in_rank_order(DType dtype, ReduceOp op, std::span<const void* const> inputs, void* output, int64_t n) {
  if (inputs.size() == 1) {
    if (n > 0) std::memmove(output, inputs[0], static_cast<size_t>(n * dtype_bytes(dtype)));
    return;
  }
  switch (op) {
    case ReduceOp::sum: return reduce_dtype<ReduceOp::sum>(dtype, inputs, output, n);
    case ReduceOp::max: return reduce_dtype<ReduceOp::max>(dtype, inputs, output, n);
    case ReduceOp::min: return reduce_dtype<ReduceOp::min>(dtype, inputs, output, n);
  }
}

}  // namespace trireme
