#include "core/ops/expert_rows.h"

#include <cstring>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/lanes.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/cpu/row_sums.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

constexpr int64_t kPairBlock = 8192;  // pairs that one piece of the sort counts and places

// Sums of up to kSumColumns columns, over rows that each begin with them.
template <class T>
TRIREME_MULTIVERSION void add_row(const T* a, float* sum, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += math::load(a + i);
}

template <class T>
TRIREME_MULTIVERSION void add_four_rows(const T* a, const T* b, const T* c, const T* d, float* sum, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    sum[i] = (((sum[i] + math::load(a + i)) + math::load(b + i)) + math::load(c + i)) + math::load(d + i);
  }
}

// One row of sum_rows. `found` are the rows that its slots name.
template <class T>
void sum_row(const T* rows, const int32_t* found, int64_t num_found, T* y, int64_t columns, bool accumulate) {
  if (num_found == 0 && accumulate) return;
  if (num_found == 1 && !accumulate) {
    std::memcpy(y, rows + found[0] * columns, static_cast<size_t>(columns) * sizeof(T));
    return;
  }
  float sum[kSumColumns];
  for (int64_t begin = 0; begin < columns; begin += kSumColumns) {
    const int64_t n = std::min(kSumColumns, columns - begin);
    const auto row = [&](int64_t s) { return rows + found[s] * columns + begin; };
    int64_t s = 0;
    if (accumulate) {
      widen_row(y + begin, sum, n);
    } else if (num_found > 0) {
      widen_row(row(s++), sum, n);
    } else {
      std::memset(sum, 0, static_cast<size_t>(n) * sizeof(float));
    }
    for (; s + 4 <= num_found; s += 4) add_four_rows(row(s), row(s + 1), row(s + 2), row(s + 3), sum, n);
    for (; s < num_found; ++s) add_row(row(s), sum, n);
    narrow_row(sum, y + begin, n);
  }
}

template <class T>
TRIREME_MULTIVERSION void add_scaled(const T* x, const float* factor, T* y, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * columns;
    T* out = y + r * columns;
    const float f = factor[r];
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) math::store(out + i, std::fma(f, math::load(in + i), math::load(out + i)));
  }
}

template <class T>
TRIREME_MULTIVERSION void dots_of_rows(const T* a, const T* b, float* dots, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = a + r * columns;
    const T* y = b + r * columns;
    dots[r] = sum_of(
        columns, [=](auto load) __attribute__((always_inline)) { return load(x) * load(y); });
  }
}

template <class T>
TRIREME_MULTIVERSION void swiglu_rows(const T* gate_up, const float* weights, T* y, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate = gate_up + r * 2 * columns;
    const T* up = gate + columns;
    T* out = y + r * columns;
    const float weight = weights[r];
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) {
      math::store(out + i, weight * (math::silu(math::load(gate + i)) * math::load(up + i)));
    }
  }
}

template <class T>
TRIREME_MULTIVERSION void swiglu_grad_rows(const T* dy, const T* gate_up, const float* weights, T* dgate_up,
                                           float* dweights, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate = gate_up + r * 2 * columns;
    const T* up = gate + columns;
    const T* d = dy + r * columns;
    T* dgate = dgate_up + r * 2 * columns;
    T* dup = dgate + columns;
    const float weight = weights[r];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < columns; ++i) {
      const float u = math::load(up + i);
      const auto grad = math::swiglu_grad(math::load(d + i), math::load(gate + i), u);
      sum += grad.up * u;
      math::store(dgate + i, weight * grad.gate);
      math::store(dup + i, weight * grad.up);
    }
    dweights[r] = sum;
  }
}

// Whether this pair takes part in the sort.
bool is_sorted(int32_t expert, int64_t num_experts) { return expert >= 0 && expert < num_experts; }

}  // namespace

void sort_by_expert(Stream& stream, const Tensor& experts, int64_t num_experts, Tensor& counts, Tensor& order,
                    Tensor& position) {
  const int64_t pairs = experts.numel();
  const int64_t num_blocks = (pairs + kPairBlock - 1) / kPairBlock;
  const Tensor starts = Tensor::empty(stream, {num_blocks, num_experts}, DType::i32, MemoryTag::workspace);
  const int32_t* expert = experts.data<int32_t>();
  int32_t* start = starts.data<int32_t>();
  int32_t* out = order.data<int32_t>();
  int32_t* place = position.data<int32_t>();
  int64_t* count = counts.data<int64_t>();
  stream.pool().for_ranges(pairs, kPairBlock, [&](int64_t begin, int64_t end) {
    int32_t* mine = start + begin / kPairBlock * num_experts;
    std::memset(mine, 0, static_cast<size_t>(num_experts) * sizeof(int32_t));
    for (int64_t i = begin; i < end; ++i) {
      if (is_sorted(expert[i], num_experts)) ++mine[expert[i]];
    }
  });
  int32_t next = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int32_t first = next;
    for (int64_t b = 0; b < num_blocks; ++b) {
      const int32_t of_block = start[b * num_experts + e];
      start[b * num_experts + e] = next;
      next += of_block;
    }
    count[e] = next - first;
  }
  stream.pool().for_ranges(pairs, kPairBlock, [&](int64_t begin, int64_t end) {
    int32_t* mine = start + begin / kPairBlock * num_experts;
    for (int64_t i = begin; i < end; ++i) {
      place[i] = -1;
      if (!is_sorted(expert[i], num_experts)) continue;
      place[i] = mine[expert[i]]++;
      out[place[i]] = static_cast<int32_t>(i);
    }
  });
}

void gather_rows(Stream& stream, const Tensor& x, const Tensor& order, int64_t slots, Tensor& y) {
  const int64_t row_bytes = x.dim(1) * dtype_bytes(x.dtype());
  const int32_t* pair = order.data<int32_t>();
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(y.raw());
  stream.pool().for_ranges(y.dim(0), rows_per_piece(x.dim(1)), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const int64_t row = pair[j] / slots;
      TRIREME_CHECK(pair[j] >= 0 && row < x.dim(0), "a pair names no row");
      std::memcpy(to + j * row_bytes, from + row * row_bytes, static_cast<size_t>(row_bytes));
    }
  });
}

void sum_rows(Stream& stream, const Tensor& rows, const Tensor& position, Tensor& y, bool accumulate) {
  const int64_t columns = rows.dim(1);
  const int64_t slots = position.dim(1);
  const int32_t* place = position.data<int32_t>();
  with_float_type(rows.dtype(), [&]<class T>(T) {
    const T* in = rows.data<T>();
    T* out = y.data<T>();
    stream.pool().for_ranges(y.dim(0), rows_per_piece(columns * (slots + 1)), [&](int64_t begin, int64_t end) {
      std::vector<int32_t> found(static_cast<size_t>(slots));
      for (int64_t r = begin; r < end; ++r) {
        int64_t num_found = 0;
        for (int64_t s = 0; s < slots; ++s) {
          const int32_t row = place[r * slots + s];
          TRIREME_CHECK(row < rows.dim(0), "a position names no row");
          if (row >= 0) found[static_cast<size_t>(num_found++)] = row;
        }
        sum_row(in, found.data(), num_found, out + r * columns, columns, accumulate);
      }
    });
  });
}

void shift_positions(Stream& stream, const Tensor& position, const Tensor& experts, const Tensor& shifts, Tensor& out) {
  const int64_t copies = shifts.dim(0);
  const int64_t num_experts = shifts.dim(1);
  const int32_t* place = position.data<int32_t>();
  const int32_t* expert = experts.data<int32_t>();
  const int32_t* shift = shifts.data<int32_t>();
  int32_t* moved = out.data<int32_t>();
  stream.pool().for_ranges(position.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      TRIREME_CHECK(place[i] < 0 || is_sorted(expert[i], num_experts), "a position of no expert");
      for (int64_t t = 0; t < copies; ++t) {
        moved[i * copies + t] = place[i] < 0 ? -1 : place[i] + shift[t * num_experts + expert[i]];
      }
    }
  });
}

void add_scaled_rows(Stream& stream, const Tensor& x, const Tensor& factor, Tensor& y) {
  const int64_t columns = x.dim(1);
  const float* f = factor.data<float>();
  with_float_type(x.dtype(), [&]<class T>(T) {
    const T* in = x.data<T>();
    T* out = y.data<T>();
    stream.pool().for_ranges(x.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      add_scaled(in + begin * columns, f + begin, out + begin * columns, end - begin, columns);
    });
  });
}

void row_dots(Stream& stream, const Tensor& a, const Tensor& b, Tensor& dots) {
  const int64_t columns = a.dim(1);
  float* out = dots.data<float>();
  with_float_type(a.dtype(), [&]<class T>(T) {
    const T* x = a.data<T>();
    const T* y = b.data<T>();
    stream.pool().for_ranges(a.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      dots_of_rows(x + begin * columns, y + begin * columns, out + begin, end - begin, columns);
    });
  });
}

void weighted_swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& weights, Tensor& y) {
  const int64_t columns = y.dim(1);
  const float* weight = weights.data<float>();
  with_float_type(y.dtype(), [&]<class T>(T) {
    const T* in = gate_up.data<T>();
    T* out = y.data<T>();
    stream.pool().for_ranges(y.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      swiglu_rows(in + begin * 2 * columns, weight + begin, out + begin * columns, end - begin, columns);
    });
  });
}

void weighted_swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& weights,
                              Tensor& dgate_up, Tensor& dweights) {
  const int64_t columns = dy.dim(1);
  const float* weight = weights.data<float>();
  float* dweight = dweights.data<float>();
  with_float_type(dy.dtype(), [&]<class T>(T) {
    const T* d = dy.data<T>();
    const T* in = gate_up.data<T>();
    T* out = dgate_up.data<T>();
    stream.pool().for_ranges(dy.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      const int64_t wide = begin * 2 * columns;
      swiglu_grad_rows(d + begin * columns, in + wide, weight + begin, out + wide, dweight + begin, end - begin,
                       columns);
    });
  });
}

}  // namespace trireme::cpu
