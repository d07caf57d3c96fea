// Products of tensor parallelism on ranks that are threads.
#include "parallel/tensor_products.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "parallel/comm/thread_world.h"
#include "tests/parallel/comm_conformance.h"
#include "tests/parallel/tensor_products_cases.h"

namespace trireme {
namespace {

class TensorProducts : public ::testing::TestWithParam<int> {};

TEST_P(TensorProducts, AreExactInAnyChunks) {
  std::vector<TestDevice> devices(static_cast<size_t>(GetParam()));
  run_thread_ranks(GetParam(), [&](Communicator& comm) {
    for (const ProductsCase& c : products_cases()) {
      check_products(comm, devices[static_cast<size_t>(comm.rank())].stream, c);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, TensorProducts, ::testing::Values(1, 2, 3, 4));

HostMatrix normal_matrix(int64_t rows, int64_t columns, const std::string& name) {
  HostMatrix m{.rows = rows, .columns = columns};
  const uint64_t key = random_key(4, name);
  for (size_t i = 0; i < m.values.size(); ++i) m.values[i] = static_cast<float>(normal_at(key, i));
  return m;
}

double worst_difference(const HostMatrix& a, const HostMatrix& b) {
  double worst = 0;
  double squares = 0;
  for (size_t i = 0; i < b.values.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a.values[i]) - static_cast<double>(b.values[i])));
    squares += static_cast<double>(b.values[i]) * static_cast<double>(b.values[i]);
  }
  return worst / std::sqrt(squares / static_cast<double>(b.values.size()));
}

// Sums that round: chunks may change the matrix library's kernel, and with it the last bits; no more.
TEST(TensorProducts, ChunksChangeNoMoreThanRounding) {
  constexpr int64_t kTokens = 301;
  constexpr int64_t kHidden = 256;
  constexpr int64_t kInner = 192;
  constexpr int kRanks = 2;
  std::vector<TestDevice> devices(kRanks);
  run_thread_ranks(kRanks, [&](Communicator& comm) {
    Stream& stream = devices[static_cast<size_t>(comm.rank())].stream;
    const std::string rank = std::to_string(comm.rank());
    const Tensor weight = to_device(stream, normal_matrix(kInner, kHidden, "weight" + rank), DType::f32);
    const Tensor inner = to_device(stream, normal_matrix(kTokens, kInner, "inner" + rank), DType::f32);
    const HostMatrix hidden = normal_matrix(kTokens, kHidden, "hidden");
    for (const bool sequence : {false, true}) {
      const auto results = [&](int64_t chunks) {
        const TensorGroup group(comm, sequence, chunks);
        const int64_t first = group.first_row(kTokens);
        const Tensor x = to_device(stream, rows_of(hidden, first, first + group.num_rows(kTokens)), DType::f32);
        return std::pair{to_host(stream, gather_linear(stream, group, x, kTokens, weight, {})),
                         to_host(stream, gather_linear_backward(stream, group, inner, weight))};
      };
      const auto [product, gradient] = results(1);
      for (const int64_t chunks : {2, 5}) {
        const auto [chunked_product, chunked_gradient] = results(chunks);
        EXPECT_LE(worst_difference(chunked_product, product), 1e-6) << chunks << " chunks";
        EXPECT_LE(worst_difference(chunked_gradient, gradient), 1e-6) << chunks << " chunks";
      }
    }
  });
}

// What overlap means: when a chunk is worked on, the transfers of others are under way already.
TEST(TensorProducts, TransfersAreQueuedBeforeTheWorkBesideThem) {
  constexpr int64_t kTokens = 12;
  constexpr int64_t kColumns = 8;
  constexpr int kRanks = 3;
  std::vector<TestDevice> devices(kRanks);
  run_thread_ranks(kRanks, [&](Communicator& comm) {
    Stream& stream = devices[static_cast<size_t>(comm.rank())].stream;
    for (const bool sequence : {false, true}) {
      const TensorGroup group(comm, sequence, 3);
      std::vector<int64_t> records;
      comm.recorder().clear();
      const int64_t before = comm.recorder().num_records();
      group.reduce(stream, kTokens, kColumns, DType::f32, [&](int64_t, int64_t, Tensor& rows) {
        records.push_back(comm.recorder().num_records() - before);
        ops::fill(stream, rows, 1);
      });
      // Before chunk k the sums of chunks 0 … k − 1; with sequence parallelism a chunk is written in three pieces.
      const std::vector<int64_t> want =
          sequence ? std::vector<int64_t>{0, 0, 0, 1, 1, 1} : std::vector<int64_t>{0, 1, 2};
      records.resize(std::min(records.size(), want.size()));
      EXPECT_EQ(records, want);
    }

    const TensorGroup group(comm, /*sequence=*/true, 3);
    const Tensor x = to_device(stream, small_integers(group.num_rows(kTokens), kColumns, "x"), DType::f32);
    comm.recorder().clear();
    const int64_t before = comm.recorder().num_records();
    std::vector<int64_t> begins;
    group.gather(stream, x, kTokens, [&](int64_t begin, int64_t end, Tensor& rows) {
      EXPECT_EQ(comm.recorder().num_records() - before, 4) << "a send and a receive with each of the others";
      EXPECT_EQ(rows.dim(0), end - begin);
      begins.push_back(begin);
    });
    const int64_t rank = comm.rank();
    EXPECT_EQ(begins, (std::vector<int64_t>{4 * rank, 4 * ((rank + 1) % 3), 4 * ((rank + 2) % 3)})) << "its own first";
    int64_t received = 0;
    for (const FlightRecord& record : comm.recorder().records()) {
      if (record.op == CommOp::recv) received += record.bytes;
    }
    EXPECT_EQ(received, 8 * kColumns * 4) << "what the others have, once";
  });
}

TEST(TensorProducts, AtLeastOneChunk) {
  run_thread_ranks(2, [&](Communicator& comm) { EXPECT_THROW(TensorGroup(comm, /*sequence=*/false, 0), BugError); });
}

}  // namespace
}  // namespace trireme
