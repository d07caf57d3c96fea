#include "core/ops/cuda/document_mask.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/ops/attention.h"
#include "tests/emulator/emulator.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

constexpr double kHidden = -1073741824.0;

// Documents that begin where `starts` says, in `batch` sequences; the last of `starts` is shifted in each further one.
std::vector<int32_t> document_starts(int64_t batch, int64_t sequence, std::vector<int64_t> starts) {
  std::vector<int32_t> result;
  for (int64_t b = 0; b < batch; ++b, ++starts.back()) {
    int32_t start = 0;
    for (int64_t t = 0; t < sequence; ++t) {
      if (std::find(starts.begin(), starts.end(), t) != starts.end()) start = static_cast<int32_t>(t);
      result.push_back(start);
    }
  }
  return result;
}

class DocumentMask : public ::testing::Test {
 protected:
  DocumentMask() { emulator::set_num_devices(1); }
  void TearDown() override { emulator::set_num_devices(0); }

  Values mask_of(Stream& stream, int64_t batch, int64_t sequence, const std::vector<int32_t>& starts) {
    Tensor mask = make_unset(stream, DType::bf16, {batch, sequence, cuda::document_mask_stride(sequence)});
    cuda::document_mask(stream, make_ids(stream, starts), sequence, mask);
    return read_values(stream, mask);
  }
};

TEST_F(DocumentMask, HidesTheKeysBeforeEachRowsDocument) {
  TestStream stream({DeviceType::cuda, 0}, 1);
  for (const int64_t sequence : {1, 8, 13, 130, 1100}) {
    const int64_t batch = 2, stride = cuda::document_mask_stride(sequence);
    const std::vector<int32_t> starts = document_starts(batch, sequence, {0, 5, 6, 64, 1030});
    const Values mask = mask_of(stream.get(), batch, sequence, starts);
    for (int64_t row = 0; row < batch * sequence; ++row) {
      for (int64_t column = 0; column < stride; ++column) {
        const double want = column < starts[static_cast<size_t>(row)] ? kHidden : 0.0;
        ASSERT_EQ(mask[static_cast<size_t>(row * stride + column)], want) << sequence << ": " << row << ", " << column;
      }
    }
  }
}

// Attention as fused kernels do it, tile after tile in fp32 with a running maximum, with the mask added to the scores:
// the result is that of the kernels that know documents, though the first tiles of late rows are hidden as a whole.
TEST_F(DocumentMask, AddedToScoresItIsAttentionWithDocuments) {
  TestStream stream({DeviceType::cuda, 0}, 1);
  const int64_t sequence = 70, dim = 8, columns = 3 * dim, tile = 16, stride = cuda::document_mask_stride(sequence);
  const ops::AttentionShape shape{1, sequence, 1, 1, dim, 0.5F};
  const std::vector<int32_t> starts = document_starts(1, sequence, {0, 3, 35, 64});
  const Values x = normal_values(sequence * columns, "qkv");
  const Values mask = mask_of(stream.get(), 1, sequence, starts);
  Values got(static_cast<size_t>(sequence * dim)), got_lse(static_cast<size_t>(sequence));
  for (int64_t t = 0; t < sequence; ++t) {
    float max = -INFINITY, sum = 0;
    std::vector<float> out(dim, 0);
    for (int64_t begin = 0; begin <= t; begin += tile) {
      std::vector<float> score;
      float largest = max;
      for (int64_t k = begin; k < std::min(begin + tile, t + 1); ++k) {
        double product = 0;
        for (int64_t d = 0; d < dim; ++d) {
          product += x[static_cast<size_t>(t * columns + d)] * x[static_cast<size_t>(k * columns + dim + d)];
        }
        score.push_back(static_cast<float>(product) * shape.scale +
                        static_cast<float>(mask[static_cast<size_t>(t * stride + k)]));
        largest = std::max(largest, score.back());
      }
      const float factor = std::exp(max - largest);
      max = largest;
      sum *= factor;
      for (float& o : out) o *= factor;
      for (size_t j = 0; j < score.size(); ++j) {
        const float p = std::exp(score[j] - max);
        sum += p;
        for (int64_t d = 0; d < dim; ++d) {
          out[static_cast<size_t>(d)] +=
              p * static_cast<float>(x[static_cast<size_t>((begin + static_cast<int64_t>(j)) * columns + 2 * dim + d)]);
        }
      }
    }
    got_lse[static_cast<size_t>(t)] = max + std::log(sum);
    for (int64_t d = 0; d < dim; ++d) got[static_cast<size_t>(t * dim + d)] = out[static_cast<size_t>(d)] / sum;
  }

  const Tensor qkv = make_tensor(stream.get(), DType::f32, {sequence, columns}, x);
  Tensor out = make_unset(stream.get(), DType::f32, {sequence, dim});
  Tensor lse = make_unset(stream.get(), DType::f32, {1, 1, sequence});
  ops::attention_forward(stream.get(), shape, qkv, make_ids(stream.get(), starts), out, lse);
  expect_close(got, read_values(stream.get(), out), 3e-6, "out");
  expect_close(got_lse, read_values(stream.get(), lse), 3e-6, "lse");
}

}  // namespace
}  // namespace trireme::testing
