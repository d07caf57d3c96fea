#include "core/ops/cuda/elements.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

namespace {

// In words of 2, 4 or 16 bytes.
template <class Word>
struct CopyRows {
  const Word* x;
  Word* y;
  int64_t x_row;
  int64_t y_row;

  template <int kN>
  __device__ void run(int64_t row, int64_t column) const {
    y[row * y_row + column] = x[row * x_row + column];
  }
};

struct Stretch {
  const std::byte* x;
  std::byte* y;
  int64_t x_row;
  int64_t y_row;
  int64_t num_bytes;

  bool fits(uintptr_t bytes) const {
    return ((reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y) | static_cast<uintptr_t>(x_row) |
             static_cast<uintptr_t>(y_row) | static_cast<uintptr_t>(num_bytes)) %
            bytes) == 0;
  }
};

template <class Word>
void copy(Stream& stream, int64_t rows, const Stretch& s) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Word));
  const CopyRows<Word> op{reinterpret_cast<const Word*>(s.x), reinterpret_cast<Word*>(s.y), s.x_row / kBytes,
                          s.y_row / kBytes};
  for_rows<1>(stream, rows, s.num_bytes / kBytes, /*aligned=*/false, op);
}

}  // namespace

void copy_row_bytes(Stream& stream, const Tensor& x, int64_t x_begin, Tensor& y, int64_t y_begin, int64_t num_bytes) {
  const Stretch s{static_cast<const std::byte*>(x.raw()) + x_begin, static_cast<std::byte*>(y.raw()) + y_begin,
                  x.dim(1) * dtype_bytes(x.dtype()), y.dim(1) * dtype_bytes(y.dtype()), num_bytes};
  if (s.fits(16)) {
    copy<uint4>(stream, x.dim(0), s);
  } else if (s.fits(4)) {
    copy<uint32_t>(stream, x.dim(0), s);
  } else {
    copy<uint16_t>(stream, x.dim(0), s);
  }
}

}  // namespace trireme::cuda
