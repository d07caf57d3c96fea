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

// The row of the table for this id, or −1.
int64_t row_of(const ops::VocabularyPart& part, int32_t id) {
  TRIREME_CHECK(id >= 0, "an id lies outside the embedding table");
  return part.index_of(id);
}

// The positions of every row's id as linked lists: first[row], then next[n], ascending, ended by −1.
void link_positions(const int32_t* ids, int64_t num_ids, const ops::VocabularyPart& part, int64_t table_rows,
                    int32_t* first, int32_t* next) {
  std::memset(first, 0xFF, static_cast<size_t>(table_rows) * sizeof(int32_t));
  for (int64_t n = num_ids - 1; n >= 0; --n) {
    const int64_t row = row_of(part, ids[n]);
    if (row < 0) continue;
    next[n] = first[row];
    first[row] = static_cast<int32_t>(n);
  }
}

// y = the row of the table, which null stands for zeros of, (+ that of the position table, unless null).
template <class T>
void lookup_row(const T* row, const T* position_row, T* y, int64_t columns) {
  if (row != nullptr && position_row != nullptr) return add_rows(row, position_row, y, columns);
  const T* only = row != nullptr ? row : position_row;
  if (only != nullptr) {
    std::memcpy(y, only, static_cast<size_t>(columns) * sizeof(T));
  } else {
    std::fill(y, y + columns, T{});
  }
}

}  // namespace

void embedding_forward(Stream& stream, const Tensor& tokens, const Tensor& table, const ops::VocabularyPart& part,
                       const Tensor& positions, const Tensor& position_table, Tensor& y) {
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
        const int64_t row = row_of(part, token[n]);
        const T* position_row = nullptr;
        if (add_position) {
          TRIREME_CHECK(position[n] >= 0 && position[n] < position_table.dim(0), "a position lies outside its table");
          position_row = position_rows + position[n] * columns;
        }
        lookup_row(row >= 0 ? rows + row * columns : nullptr, position_row, out + n * columns, columns);
      }
    });
  });
}

void embedding_backward(Stream& stream, const Tensor& ids, const ops::VocabularyPart& part, const Tensor& dy,
                        Tensor& dtable, bool accumulate) {
  const int64_t num_ids = dy.dim(0);
  const int64_t columns = dy.dim(1);
  const int64_t table_rows = dtable.dim(0);
  TRIREME_CHECK(num_ids <= INT32_MAX && table_rows <= INT32_MAX);
  const Tensor links = Tensor::empty(stream, {table_rows + num_ids}, DType::i32, MemoryTag::workspace);
  int32_t* first = links.data<int32_t>();
  int32_t* next = first + table_rows;
  link_positions(ids.data<int32_t>(), num_ids, part, table_rows, first, next);

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
