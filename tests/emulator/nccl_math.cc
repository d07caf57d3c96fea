// What the emulated NCCL's collectives do to memory. The only part of it that the sanitizers look at.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/tensor/dtype.h"
#include "tests/emulator/nccl_clique.h"

namespace emulator {

namespace {

using trireme::bf16;

constexpr size_t kChunk = 512;

template <class T>
struct Wide {
  using type = T;
};
template <>
struct Wide<bf16> {
  using type = float;
};
// Integer sums wrap.
template <>
struct Wide<int32_t> {
  using type = uint32_t;
};
template <>
struct Wide<int64_t> {
  using type = uint64_t;
};

template <class T>
T larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
  return std::max(a, b);
}

template <class T>
T smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
  return std::min(a, b);
}

// out[i] = inputs[0][first + i] op inputs[1][first + i] … for n elements.
template <class T>
void reduce(const std::vector<NcclOp>& ops, size_t first, size_t n, T* out) {
  using Sum = typename Wide<T>::type;
  using Plain = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  for (size_t i = 0; i < n; ++i) {
    const auto element = [&](size_t r) { return static_cast<Plain>(static_cast<const T*>(ops[r].send)[first + i]); };
    Plain value = element(0);
    for (size_t r = 1; r < ops.size(); ++r) {
      switch (ops[0].op) {
        case ncclMax: value = larger(value, element(r)); break;
        case ncclMin: value = smaller(value, element(r)); break;
        default: value = static_cast<Plain>(static_cast<Sum>(value) + static_cast<Sum>(element(r))); break;
      }
    }
    out[i] = static_cast<T>(value);
  }
}

template <class T>
void all_reduce(const std::vector<NcclOp>& ops) {
  T chunk[kChunk];
  for (size_t first = 0; first < ops[0].count; first += kChunk) {
    const size_t n = std::min(kChunk, ops[0].count - first);
    reduce(ops, first, n, chunk);
    for (const NcclOp& op : ops) std::copy_n(chunk, n, static_cast<T*>(op.recv) + first);
  }
}

template <class T>
void reduce_scatter(const std::vector<NcclOp>& ops) {
  T chunk[kChunk];
  const size_t count = ops[0].count;
  for (size_t r = 0; r < ops.size(); ++r) {
    for (size_t first = 0; first < count; first += kChunk) {
      const size_t n = std::min(kChunk, count - first);
      reduce(ops, r * count + first, n, chunk);
      std::copy_n(chunk, n, static_cast<T*>(ops[r].recv) + first);
    }
  }
}

template <class T>
void run_reduction(const std::vector<NcclOp>& ops) {
  if (ops[0].kind == NcclOp::Kind::all_reduce) {
    all_reduce<T>(ops);
  } else {
    reduce_scatter<T>(ops);
  }
}

void copy(const void* from, void* to, size_t bytes) {
  if (from != to && bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

void run_collective(const std::vector<NcclOp>& ops) {
  const NcclOp& first = ops[0];
  const size_t bytes = first.count * nccl_type_bytes(first.type);
  if (first.kind == NcclOp::Kind::broadcast) {
    const void* from = ops[static_cast<size_t>(first.peer)].send;
    for (const NcclOp& op : ops) copy(from, op.recv, bytes);
    return;
  }
  if (first.kind == NcclOp::Kind::all_gather) {
    for (const NcclOp& to : ops) {
      for (size_t r = 0; r < ops.size(); ++r) copy(ops[r].send, static_cast<std::byte*>(to.recv) + r * bytes, bytes);
    }
    return;
  }
  switch (first.type) {
    case ncclFloat32: return run_reduction<float>(ops);
    case ncclFloat64: return run_reduction<double>(ops);
    case ncclBfloat16: return run_reduction<bf16>(ops);
    case ncclInt32: return run_reduction<int32_t>(ops);
    case ncclInt64: return run_reduction<int64_t>(ops);
    case ncclUint8: return run_reduction<uint8_t>(ops);
    default: fail("the emulated NCCL doesn't reduce this type: " + first.str());
  }
}

void run_transfer(const NcclOp& send, const NcclOp& recv) {
  copy(send.send, recv.recv, send.count * nccl_type_bytes(send.type));
}

}  // namespace emulator
