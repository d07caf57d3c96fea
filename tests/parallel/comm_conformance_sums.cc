// The conformance cases about which sum exactly a reduction forms.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/parallel/comm_conformance.h"
#include "tests/parallel/comm_values.h"

namespace trireme {

namespace {

// Values of either sign over 24 binades, whose sum depends on the order of the additions. Made from
// integers, so that no compiler's floating-point contraction gives the test another input than the reference.
float rough(int rank, int64_t i) {
  uint32_t h = static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(rank) * 40503u + 977u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  const uint32_t exponent = 115 + (h >> 7) % 24;
  return std::bit_cast<float>((h & 0x80000000u) | exponent << 23 | (h & 0x7FFFFFu));
}

template <class T>
T rough_as(int rank, int64_t i) {
  if constexpr (std::is_same_v<T, double>) return rough(rank, i) + 0x1p-29 * rough(rank + 100, i);
  return static_cast<T>(rough(rank, i));
}

template <class T, class A>
void check_rank_order(Communicator& comm, Stream& stream, int64_t n) {
  constexpr DType dtype = DTypeOf<T>::value;
  const auto fill = [&](const Tensor& t) {
    const Tensor values = fetch(stream, t);
    for (int64_t i = 0; i < t.numel(); ++i) values.data<T>()[i] = rough_as<T>(comm.rank(), i);
    put(stream, values, t);
  };
  std::vector<T> expected(static_cast<size_t>(n));
  int64_t num_order_matters = 0;
  for (int64_t i = 0; i < n; ++i) {
    A forward = static_cast<A>(rough_as<T>(0, i));
    A backward = static_cast<A>(rough_as<T>(comm.size() - 1, i));
    for (int r = 1; r < comm.size(); ++r) {
      forward += static_cast<A>(rough_as<T>(r, i));
      backward += static_cast<A>(rough_as<T>(comm.size() - 1 - r, i));
    }
    expected[static_cast<size_t>(i)] = static_cast<T>(forward);
    num_order_matters += forward != backward ? 1 : 0;
  }
  if (comm.size() > 2 && n > 1000) {
    EXPECT_GT(num_order_matters, n / 200) << "the inputs don't test the order";
  }
  // NCCL adds in an order of its own, which is the same in every run.
  const auto equal = [&](const Tensor& got, int64_t begin) {
    const Tensor values = fetch(stream, got);
    const T* want = expected.data() + begin;
    if (comm.backend() != "nccl") return std::memcmp(values.raw(), want, static_cast<size_t>(got.bytes())) == 0;
    for (int64_t i = 0; i < got.numel(); ++i) {
      double magnitude = 0;
      for (int r = 0; r < comm.size(); ++r)
        magnitude += std::abs(static_cast<double>(static_cast<A>(rough_as<T>(r, begin + i))));
      const double difference =
          static_cast<double>(static_cast<A>(values.data<T>()[i])) - static_cast<double>(static_cast<A>(want[i]));
      if (std::abs(difference) > comm.size() * magnitude *
                                     (sizeof(T) == 2   ? 0x1p-8
                                      : sizeof(T) == 4 ? 0x1p-23
                                                       : 0x1p-52))
        return false;
    }
    return true;
  };
  const Tensor whole = Tensor::empty(stream, {n}, dtype);
  fill(whole);
  comm.all_reduce(whole, ReduceOp::sum, stream)->wait(stream);
  EXPECT_TRUE(equal(whole, 0)) << "all_reduce of " << dtype_name(dtype) << " [" << n << "] is not the rank-order sum";
  const Tensor again = Tensor::empty(stream, {n}, dtype);
  fill(again);
  comm.all_reduce(again, ReduceOp::sum, stream)->wait(stream);
  EXPECT_EQ(std::memcmp(fetch(stream, again).raw(), fetch(stream, whole).raw(), static_cast<size_t>(whole.bytes())), 0)
      << "the same call gives other bits";
  // The same in pieces.
  const Tensor cut = Tensor::empty(stream, {n}, dtype);
  fill(cut);
  std::vector<WorkHandle> works;
  const int64_t piece = n / 3 + 1;
  for (int64_t i = 0; i < n; i += piece) {
    works.push_back(comm.all_reduce(cut.slice(i, std::min(n, i + piece)), ReduceOp::sum, stream));
  }
  for (const WorkHandle& work : works) work->wait(stream);
  EXPECT_TRUE(equal(cut, 0)) << "cutting all_reduce of " << dtype_name(dtype) << " [" << n << "] changes bits";
  const int64_t block = n / comm.size();
  const Tensor in = Tensor::empty(stream, {block * comm.size()}, dtype);
  fill(in);
  const Tensor out = Tensor::empty(stream, {block}, dtype);
  comm.reduce_scatter(in, out, ReduceOp::sum, stream)->wait(stream);
  EXPECT_TRUE(equal(out, comm.rank() * block)) << "reduce_scatter is not the rank-order sum";
}

}  // namespace

void test_rank_order(Communicator& comm, Stream& stream) {
  for (const int64_t n : {int64_t{1}, int64_t{1027}, kRough}) {
    check_rank_order<float, float>(comm, stream, n);
    check_rank_order<bf16, float>(comm, stream, n);
    check_rank_order<double, double>(comm, stream, n);
  }
}

void test_special_values(Communicator& comm, Stream& stream) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const bool last = comm.rank() == comm.size() - 1;
  for (const ReduceOp op : kReduceOps) {
    const Tensor t = Tensor::empty(stream, {3}, DType::f32);
    const Tensor values = fetch(stream, t);
    values.data<float>()[0] = comm.rank() == 0 ? kNan : 1.0F;
    values.data<float>()[1] = last ? kNan : 1.0F;
    values.data<float>()[2] = -1.0F;
    put(stream, values, t);
    comm.all_reduce(t, op, stream)->wait(stream);
    const Tensor result = fetch(stream, t);
    EXPECT_TRUE(std::isnan(result.data<float>()[0]));
    EXPECT_TRUE(std::isnan(result.data<float>()[1]));
    EXPECT_EQ(result.data<float>()[2], op == ReduceOp::sum ? -static_cast<float>(comm.size()) : -1.0F);
  }
  const Tensor wraps = make(stream, 1, DType::i32, [](int64_t) { return std::numeric_limits<int32_t>::max(); });
  comm.all_reduce(wraps, ReduceOp::sum, stream)->wait(stream);
  const auto expected = static_cast<int64_t>(std::numeric_limits<int32_t>::max()) * comm.size();
  EXPECT_EQ(fetch(stream, wraps).data<int32_t>()[0], static_cast<int32_t>(static_cast<uint32_t>(expected)));
}

}  // namespace trireme
