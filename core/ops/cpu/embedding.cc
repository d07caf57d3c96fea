#include "core/ops/embedding.h"

#include <cstring>
#include <vector>

#include "core/ops/cpu/blocks.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/multiversion.h"
#include "core/ops/math.h"

namespace trireme::cpu {

namespace {

template <class T>
TRIREME_MULTIVERSION void add_rows(const T* a, const T* b, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, math::load(a + i) + math::load(b + i));
}

TRIREME_MULTIVERSION
void widen(const bf16* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = math::load(x + i);
}

TRIREME_MULTIVERSION
void narrow(const float* x, bf16* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) math::store(y + i, x[i]);
}

template <class T>
TRIREME_MULTIVERSION void add_to(const T* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += math::load(x + i);
}

void check_id(int32_t id, int64_t count) {
  TRIREME_CHECK(id >= 0 && id < count, "an id lies outside the embedding table");
}

// The positions of every id as linked lists: first[id], then next[n], ascending, ended by −1.
void link_positions(const int32_t* ids, int64_t num_ids, int64_t table_rows, int32_t* first, int32_t* next) {
  std::memset(first, 0xFF, static_cast<size_t>(table_rows) * sizeof(int32_t));
  for (int64_t n = num_ids - 1; n >= 0; --n) {
    check_id(ids[n], table_rows);
    next[n] = first[ids[n]];
    first[ids[n]] = static_cast<int32_t>(n);
  }
}

}  // namespace

void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const Tensor& positions,
                       const Tensor& position_table, Tensor& y) {
  const int64_t columns = y.dim(1);
  const int32_t* token = tokens.data<int32_t>();
  with_float_type(y.dtype(), [&]<class T>(T) {
    const T* rows = table.data<T>();
    T* out = y.data<T>();
    const bool add_position = position_table.defined();
    const int32_t* position = add_position ? positions.data<int32_t>() : nullptr;
    const T* position_rows = add_position ? position_table.data<T>() : nullptr;
    stream.pool().for_ranges(y.dim(0), rows_per_piece(columns), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        check_id(token[n], table.dim(0));
        const T* row = rows + token[n] * columns;
        if (!add_position) {
          std::memcpy(out + n * columns, row, static_cast<size_t>(columns) * sizeof(T));
          continue;
        }
        check_id(position[n], position_table.dim(0));
        add_rows(row, position_rows + position[n] * columns, out + n * columns, columns);
      }
    });
  });
}

void embedding_backward(Stream& stream, const Tensor& ids, const Tensor& dy, Tensor& dtable, bool accumulate) {
  const int64_t num_ids = dy.dim(0);
  const int64_t columns = dy.dim(1);
  const int64_t table_rows = dtable.dim(0);
  TRIREME_CHECK(num_ids <= INT32_MAX && table_rows <= INT32_MAX);
  const Tensor links = Tensor::empty(stream, {table_rows + num_ids}, DType::i32, MemoryTag::workspace);
  int32_t* first = links.data<int32_t>();
  int32_t* next = first + table_rows;
  link_positions(ids.data<int32_t>(), num_ids, table_rows, first, next);

  // Each piece owns rows of the table: it clears them and adds what belongs there. 64 pieces even out frequent ids.
  const int64_t piece = std::max<int64_t>(1, (table_rows + 63) / 64);
  with_float_type(dy.dtype(), [&]<class T>(T) {
    const T* d = dy.data<T>();
    const auto add_row = [&](int64_t id, float* row) {
      for (int64_t n = first[id]; n >= 0; n = next[n]) add_to(d + n * columns, row, columns);
    };
    if (dtable.dtype() == DType::f32) {
      float* out = dtable.data<float>();
      stream.pool().for_ranges(table_rows, piece, [&](int64_t begin, int64_t end) {
        for (int64_t id = begin; id < end; ++id) {
          float* row = out + id * columns;
          if (!accumulate) std::memset(row, 0, static_cast<size_t>(columns) * sizeof(float));
          add_row(id, row);
        }
      });
      return;
    }
    bf16* out = dtable.data<bf16>();
    stream.pool().for_ranges(table_rows, piece, [&](int64_t begin, int64_t end) {
      std::vector<float> wide(static_cast<size_t>(columns));
      for (int64_t id = begin; id < end; ++id) {
        bf16* row = out + id * columns;
        if (!accumulate) std::fill(row, row + columns, bf16{});
        if (first[id] < 0) continue;
        widen(row, wide.data(), columns);
        add_row(id, wide.data());
        narrow(wide.data(), row, columns);
      }
    });
  });
}

}  // namespace trireme::cpu
