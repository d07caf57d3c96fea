#include "core/ops/cuda/document_mask.h"

#include "core/device/cuda/launch.h"
#include "core/ops/cuda/vector.h"

namespace trireme::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kColumns = kVector<bf16>;    // of a thread
constexpr float kHidden = -1073741824.0f;  // -2^30, exact in bf16

// A block writes a row.
__global__ void __launch_bounds__(kThreads) mask_kernel(const int32_t* document_start, int stride, bf16* mask) {
  const int start = document_start[blockIdx.x];
  bf16* const row = mask + static_cast<int64_t>(blockIdx.x) * stride;
  for (int column = static_cast<int>(threadIdx.x) * kColumns; column < stride; column += kThreads * kColumns) {
    Floats<kColumns> values;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values.x[i] = column + i < start ? kHidden : 0.0f;
    store<kColumns>(row + column, values);
  }
}

}  // namespace

void document_mask(Stream& stream, const Tensor& document_start, int64_t sequence, Tensor& mask) {
  const int64_t stride = document_mask_stride(sequence);
  const int64_t rows = document_start.numel();
  TRIREME_CHECK(mask.bytes() >= rows * stride * dtype_bytes(DType::bf16) && stride <= INT32_MAX / 2);
  if (rows == 0) return;
  launch(stream, dim3(grid_size(rows)), kThreads, 0, mask_kernel, document_start.data<int32_t>(),
         static_cast<int>(stride), static_cast<bf16*>(mask.raw()));
}

}  // namespace trireme::cuda
