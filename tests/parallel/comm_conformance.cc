#include "tests/parallel/comm_conformance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace trireme {
namespace {

constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8};
constexpr ReduceOp kOps[] = {ReduceOp::sum, ReduceOp::max, ReduceOp::min};
// Large enough for several chunks; sanitizers make every element ten times dearer.
#ifdef TRIREME_SANITIZED
constexpr int64_t kLong = 5003;
constexpr int64_t kRough = 30011;
#else
constexpr int64_t kLong = 40009;
constexpr int64_t kRough = 400009;
#endif
constexpr int64_t kSizes[] = {0, 1, 17, 1000, kLong};

// Small whole numbers: every partial sum over at most 16 ranks is exact in every dtype.
int64_t value_of(int rank, int64_t i) { return (static_cast<int64_t>(rank) * 7 + i * 3) % 11; }

void store(const Tensor& tensor, int64_t i, int64_t value) {
  switch (tensor.dtype()) {
    case DType::f32: tensor.data<float>()[i] = static_cast<float>(value); break;
    case DType::bf16: tensor.data<bf16>()[i] = bf16(static_cast<float>(value)); break;
    case DType::f64: tensor.data<double>()[i] = static_cast<double>(value); break;
    case DType::i32: tensor.data<int32_t>()[i] = static_cast<int32_t>(value); break;
    case DType::i64: tensor.data<int64_t>()[i] = value; break;
    case DType::u8: tensor.data<uint8_t>()[i] = static_cast<uint8_t>(value); break;
  }
}

int64_t load(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::f32: return static_cast<int64_t>(tensor.data<float>()[i]);
    case DType::bf16: return static_cast<int64_t>(static_cast<float>(tensor.data<bf16>()[i]));
    case DType::f64: return static_cast<int64_t>(tensor.data<double>()[i]);
    case DType::i32: return tensor.data<int32_t>()[i];
    case DType::i64: return tensor.data<int64_t>()[i];
    case DType::u8: return tensor.data<uint8_t>()[i];
  }
  return 0;
}

using Formula = std::function<int64_t(int64_t)>;

Tensor make(Stream& stream, int64_t n, DType dtype, const Formula& formula) {
  Tensor tensor = Tensor::empty(stream, {n}, dtype);
  for (int64_t i = 0; i < n; ++i) store(tensor, i, formula(i));
  return tensor;
}

Tensor make_blank(Stream& stream, int64_t n, DType dtype) {
  return make(stream, n, dtype, [](int64_t) { return 99; });
}

// One failure per tensor, not per element.
void expect_values(const Tensor& tensor, const Formula& formula, const std::string& what) {
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    if (load(tensor, i) == formula(i)) continue;
    ADD_FAILURE() << what << " " << dtype_name(tensor.dtype()) << tensor.shape().str() << ": element " << i << " is "
                  << load(tensor, i) << ", expected " << formula(i);
    return;
  }
}

int64_t reduced(ReduceOp op, int size, int64_t i) {
  int64_t result = value_of(0, i);
  for (int r = 1; r < size; ++r) {
    const int64_t next = value_of(r, i);
    if (op == ReduceOp::sum) result += next;
    if (op == ReduceOp::max) result = std::max(result, next);
    if (op == ReduceOp::min) result = std::min(result, next);
  }
  return result;
}

void test_all_reduce(Communicator& comm, Stream& stream) {
  for (const DType dtype : kDTypes) {
    for (const ReduceOp op : kOps) {
      for (const int64_t n : kSizes) {
        const Tensor t = make(stream, n, dtype, [&](int64_t i) { return value_of(comm.rank(), i); });
        comm.all_reduce(t, op, stream)->wait(stream);
        expect_values(
            t, [&](int64_t i) { return reduced(op, comm.size(), i); }, "all_reduce");
      }
    }
  }
}

void test_reduce_scatter(Communicator& comm, Stream& stream) {
  for (const DType dtype : kDTypes) {
    for (const ReduceOp op : kOps) {
      for (const int64_t n : kSizes) {
        const Tensor in = make(stream, n * comm.size(), dtype, [&](int64_t i) { return value_of(comm.rank(), i); });
        const Tensor out = make_blank(stream, n, dtype);
        const auto expected = [&](int64_t i) { return reduced(op, comm.size(), comm.rank() * n + i); };
        comm.reduce_scatter(in, out, op, stream)->wait(stream);
        expect_values(out, expected, "reduce_scatter");
        const Tensor own = in.slice(comm.rank() * n, (comm.rank() + 1) * n);
        comm.reduce_scatter(in, own, op, stream)->wait(stream);
        expect_values(own, expected, "reduce_scatter in place");
      }
    }
  }
}

void test_all_gather(Communicator& comm, Stream& stream) {
  for (const DType dtype : kDTypes) {
    for (const int64_t n : kSizes) {
      const auto mine = [&](int64_t i) { return value_of(comm.rank(), i); };
      const auto expected = [&](int64_t i) { return value_of(static_cast<int>(i / n), i % n); };
      const Tensor in = make(stream, n, dtype, mine);
      const Tensor out = make_blank(stream, n * comm.size(), dtype);
      comm.all_gather(in, out, stream)->wait(stream);
      expect_values(out, expected, "all_gather");
      const Tensor whole = make_blank(stream, n * comm.size(), dtype);
      const Tensor own = whole.slice(comm.rank() * n, (comm.rank() + 1) * n);
      for (int64_t i = 0; i < n; ++i) store(own, i, mine(i));
      comm.all_gather(own, whole, stream)->wait(stream);
      expect_values(whole, expected, "all_gather in place");
    }
  }
}

void test_all_to_all(Communicator& comm, Stream& stream) {
  for (const DType dtype : kDTypes) {
    for (const int64_t n : kSizes) {
      // Element i of the block from a to b.
      const auto element = [](int from, int to, int64_t i) { return value_of(from + 3 * to, i); };
      const Tensor in = make(stream, n * comm.size(), dtype,
                             [&](int64_t i) { return element(comm.rank(), static_cast<int>(i / n), i % n); });
      const Tensor out = make_blank(stream, n * comm.size(), dtype);
      comm.all_to_all(in, out, stream)->wait(stream);
      expect_values(
          out, [&](int64_t i) { return element(static_cast<int>(i / n), comm.rank(), i % n); }, "all_to_all");
    }
  }
}

void test_all_to_all_v(Communicator& comm, Stream& stream) {
  const auto size = static_cast<size_t>(comm.size());
  for (const DType dtype : kDTypes) {
    for (const int64_t n : {int64_t{0}, int64_t{5}, kLong}) {
      // The last rank gets nothing (unless it is alone), rank 0 sends nothing to rank 1.
      const auto count = [&](int from, int to) {
        if (to == comm.size() - 1 && comm.size() > 1) return int64_t{0};
        if (from == 0 && to == 1) return int64_t{0};
        return n * (from + 1) + to;
      };
      std::vector<int64_t> sends(size);
      std::vector<int64_t> recvs(size);
      for (int r = 0; r < comm.size(); ++r) {
        sends[static_cast<size_t>(r)] = count(comm.rank(), r);
        recvs[static_cast<size_t>(r)] = count(r, comm.rank());
      }
      const auto total = [](const std::vector<int64_t>& v) { return std::accumulate(v.begin(), v.end(), int64_t{0}); };
      const Tensor in = make_blank(stream, total(sends) + 2, dtype);
      int64_t place = 0;
      for (int to = 0; to < comm.size(); ++to) {
        for (int64_t i = 0; i < count(comm.rank(), to); ++i) store(in, place++, value_of(comm.rank() + 3 * to, i));
      }
      const Tensor out = make_blank(stream, total(recvs) + 3, dtype);
      comm.all_to_all_v(in, sends, out, recvs, stream)->wait(stream);
      place = 0;
      for (int from = 0; from < comm.size(); ++from) {
        const int64_t c = count(from, comm.rank());
        expect_values(
            out.slice(place, place + c), [&](int64_t i) { return value_of(from + 3 * comm.rank(), i); },
            "all_to_all_v");
        place += c;
      }
      expect_values(
          out.slice(place, place + 3), [](int64_t) { return 99; }, "all_to_all_v beyond the counts");
    }
  }
}

void test_broadcast(Communicator& comm, Stream& stream) {
  for (const DType dtype : kDTypes) {
    for (const int64_t n : kSizes) {
      for (int root = 0; root < comm.size(); ++root) {
        const Tensor t = make(stream, n, dtype, [&](int64_t i) { return value_of(comm.rank(), i); });
        comm.broadcast(t, root, stream)->wait(stream);
        expect_values(
            t, [&](int64_t i) { return value_of(root, i); }, "broadcast");
      }
    }
  }
}

void test_send_recv(Communicator& comm, Stream& stream) {
  const int next = (comm.rank() + 1) % comm.size();
  const int previous = (comm.rank() + comm.size() - 1) % comm.size();
  const auto element = [](int from, int which, int64_t i) { return value_of(from + 2 * which, i); };
  for (const DType dtype : kDTypes) {
    for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{1001}, 2 * kLong}) {
      // Around the ring in both directions, two to each neighbour, of different sizes, all at once. Where
      // both neighbours are one rank, the FIFO of the pair carries all four: sends and receives in equal order.
      std::vector<Transfer> transfers;
      std::vector<Tensor> received;
      const int to[] = {next, next, previous, previous};
      const int from[] = {previous, previous, next, next};
      for (int which = 0; which < 4; ++which) {
        const int64_t m = n + which;
        const Tensor out = make(stream, m, dtype, [&](int64_t i) { return element(comm.rank(), which, i); });
        received.push_back(make_blank(stream, m, dtype));
        transfers.push_back(Transfer::send(out, to[which]));
        transfers.push_back(Transfer::recv(received.back(), from[which]));
      }
      comm.send_recv(std::move(transfers), stream)->wait(stream);
      for (int which = 0; which < 4; ++which) {
        expect_values(
            received[static_cast<size_t>(which)], [&](int64_t i) { return element(from[which], which, i); },
            "send_recv");
      }
    }
  }
}

// A line of ranks, as a pipeline: single sends and receives, FIFO per pair, empty groups, transfers to oneself.
void test_pipeline(Communicator& comm, Stream& stream) {
  constexpr int kMicrobatches = 5;
  const Tensor own = make(stream, 33, DType::i32, [&](int64_t i) { return comm.rank() + i; });
  const Tensor own_copy = make_blank(stream, 33, DType::i32);
  comm.send_recv({Transfer::recv(own_copy, comm.rank()), Transfer::send(own, comm.rank())}, stream)->wait(stream);
  expect_values(
      own_copy, [&](int64_t i) { return comm.rank() + i; }, "transfer to oneself");
  comm.send_recv({}, stream)->wait(stream);
  for (int m = 0; m < kMicrobatches; ++m) {
    const Tensor t = make(stream, 2000 + m, DType::f32, [&](int64_t i) { return m + i % 5; });
    if (comm.rank() > 0) {
      const Tensor in = make_blank(stream, 2000 + m, DType::f32);
      comm.send_recv({Transfer::recv(in, comm.rank() - 1)}, stream)->wait(stream);
      expect_values(
          in, [&](int64_t i) { return m + comm.rank() - 1 + i % 5; }, "pipeline");
      for (int64_t i = 0; i < t.numel(); ++i) store(t, i, load(in, i) + 1);
    }
    if (comm.rank() + 1 < comm.size()) comm.send_recv({Transfer::send(t, comm.rank() + 1)}, stream)->wait(stream);
  }
}

void test_outstanding(Communicator& comm, Stream& stream) {
  constexpr int kCalls = 12;
  std::vector<Tensor> reduced_tensors;
  std::vector<Tensor> gathered;
  std::vector<WorkHandle> works;
  for (int k = 0; k < kCalls; ++k) {
    const int64_t n = 1 + 9001 * k;
    reduced_tensors.push_back(make(stream, n, DType::f32, [&](int64_t i) { return value_of(comm.rank(), i + k); }));
    works.push_back(comm.all_reduce(reduced_tensors.back(), ReduceOp::sum, stream));
    const Tensor in = make(stream, 3 * k, DType::i64, [&](int64_t i) { return value_of(comm.rank() + k, i); });
    gathered.push_back(make_blank(stream, 3 * k * comm.size(), DType::i64));
    comm.all_gather(in, gathered.back(), stream);  // the handle may be dropped; the barrier stands behind it
    works.push_back(comm.barrier(stream));
  }
  std::reverse(works.begin(), works.end());
  for (const WorkHandle& work : works) {
    work->wait(stream);
    EXPECT_TRUE(work->done());
  }
  for (int k = 0; k < kCalls; ++k) {
    const auto i_k = static_cast<size_t>(k);
    expect_values(
        reduced_tensors[i_k], [&](int64_t i) { return reduced(ReduceOp::sum, comm.size(), i + k); },
        "outstanding all_reduce");
    expect_values(
        gathered[i_k], [&](int64_t i) { return value_of(static_cast<int>(i / (3 * k)) + k, i % (3 * k)); },
        "outstanding all_gather");
  }
}

void expect_group_sum(Communicator& group, const std::vector<int>& members, Stream& stream) {
  const int world_rank = members[static_cast<size_t>(group.rank())];
  const Tensor t = make(stream, 1003, DType::f32, [&](int64_t i) { return value_of(world_rank, i); });
  group.all_reduce(t, ReduceOp::sum, stream)->wait(stream);
  expect_values(
      t,
      [&](int64_t i) {
        int64_t sum = 0;
        for (const int m : members) sum += value_of(m, i);
        return sum;
      },
      "group " + group.name());
}

void test_groups(Communicator& comm, Stream& stream) {
  // Even and odd ranks.
  std::vector<int> parity;
  for (int r = comm.rank() % 2; r < comm.size(); r += 2) parity.push_back(r);
  const auto half = comm.split(parity, comm.rank() % 2 == 0 ? "even" : "odd");
  ASSERT_NE(half, nullptr);
  EXPECT_EQ(half->size(), std::ssize(parity));
  EXPECT_EQ(parity[static_cast<size_t>(half->rank())], comm.rank());
  EXPECT_EQ(half->name(), comm.rank() % 2 == 0 ? "even" : "odd");
  EXPECT_EQ(half->backend(), parity.size() == 1 ? "self" : comm.backend());
  expect_group_sum(*half, parity, stream);

  // Everybody, backwards.
  std::vector<int> backwards(static_cast<size_t>(comm.size()));
  for (int r = 0; r < comm.size(); ++r) backwards[static_cast<size_t>(r)] = comm.size() - 1 - r;
  const auto reversed = comm.split(backwards, "backwards");
  EXPECT_EQ(reversed->rank(), comm.size() - 1 - comm.rank());
  expect_group_sum(*reversed, backwards, stream);
  const Tensor in = make(stream, 2, DType::i32, [&](int64_t) { return comm.rank(); });
  const Tensor out = make_blank(stream, 2 * comm.size(), DType::i32);
  reversed->all_gather(in, out, stream)->wait(stream);
  expect_values(
      out, [&](int64_t i) { return comm.size() - 1 - i / 2; }, "backwards");

  // First and last only; the others get nothing.
  const bool at_end = comm.rank() == 0 || comm.rank() == comm.size() - 1;
  std::vector<int> ends;
  if (at_end) ends.push_back(0);
  if (at_end && comm.size() > 1) ends.push_back(comm.size() - 1);
  auto tied = comm.split(ends, "ends");
  EXPECT_EQ(tied != nullptr, at_end);
  if (tied) expect_group_sum(*tied, ends, stream);

  // A group of a group, after its parent is gone.
  auto parent = comm.split(backwards, "parent");
  std::vector<int> firsts;
  std::vector<int> first_members;
  for (int r = 0; r < (comm.size() + 1) / 2; ++r) {
    firsts.push_back(r);
    first_members.push_back(backwards[static_cast<size_t>(r)]);
  }
  const bool in_firsts = parent->rank() < std::ssize(firsts);
  const auto nested = parent->split(in_firsts ? firsts : std::vector<int>{}, "nested");
  parent.reset();
  if (in_firsts) expect_group_sum(*nested, first_members, stream);
}

// Calls on different communicators don't wait for each other, whatever the order in which ranks make them.
void test_independent_groups(Communicator& comm, Stream& stream) {
  std::vector<int> all(static_cast<size_t>(comm.size()));
  std::iota(all.begin(), all.end(), 0);
  const auto a = comm.split(all, "a");
  const auto b = comm.split(all, "b");
  const Tensor x = make(stream, 50001, DType::f32, [&](int64_t i) { return value_of(comm.rank(), i); });
  const Tensor y = make(stream, 50001, DType::f32, [&](int64_t i) { return value_of(comm.rank(), i + 1); });
  WorkHandle on_a;
  WorkHandle on_b;
  if (comm.rank() % 2 == 0) {
    on_a = a->all_reduce(x, ReduceOp::sum, stream);
    on_b = b->all_reduce(y, ReduceOp::sum, stream);
    on_a->wait(stream);
    on_b->wait(stream);
  } else {
    on_b = b->all_reduce(y, ReduceOp::sum, stream);
    on_b->wait(stream);
    on_a = a->all_reduce(x, ReduceOp::sum, stream);
    on_a->wait(stream);
  }
  expect_values(
      x, [&](int64_t i) { return reduced(ReduceOp::sum, comm.size(), i); }, "a");
  expect_values(
      y, [&](int64_t i) { return reduced(ReduceOp::sum, comm.size(), i + 1); }, "b");
}

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
    for (int64_t i = 0; i < t.numel(); ++i) t.data<T>()[i] = rough_as<T>(comm.rank(), i);
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
  const auto equal = [&](const Tensor& got, int64_t begin) {
    return std::memcmp(got.raw(), expected.data() + begin, static_cast<size_t>(got.bytes())) == 0;
  };
  const Tensor whole = Tensor::empty(stream, {n}, dtype);
  fill(whole);
  comm.all_reduce(whole, ReduceOp::sum, stream)->wait(stream);
  EXPECT_TRUE(equal(whole, 0)) << "all_reduce of " << dtype_name(dtype) << " [" << n << "] is not the rank-order sum";
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
  for (const ReduceOp op : kOps) {
    const Tensor t = Tensor::empty(stream, {3}, DType::f32);
    t.data<float>()[0] = comm.rank() == 0 ? kNan : 1.0F;
    t.data<float>()[1] = last ? kNan : 1.0F;
    t.data<float>()[2] = -1.0F;
    comm.all_reduce(t, op, stream)->wait(stream);
    EXPECT_TRUE(std::isnan(t.data<float>()[0]));
    EXPECT_TRUE(std::isnan(t.data<float>()[1]));
    EXPECT_EQ(t.data<float>()[2], op == ReduceOp::sum ? -static_cast<float>(comm.size()) : -1.0F);
  }
  const Tensor wraps = Tensor::empty(stream, {1}, DType::i32);
  wraps.data<int32_t>()[0] = std::numeric_limits<int32_t>::max();
  comm.all_reduce(wraps, ReduceOp::sum, stream)->wait(stream);
  const auto expected = static_cast<int64_t>(std::numeric_limits<int32_t>::max()) * comm.size();
  EXPECT_EQ(wraps.data<int32_t>()[0], static_cast<int32_t>(static_cast<uint32_t>(expected)));
}

void test_recorder(Communicator& comm, Stream& stream) {
  FlightRecorder& recorder = comm.recorder();
  const int64_t before = recorder.num_records();
  recorder.set_step(41);
  const Tensor t = make_blank(stream, 1000, DType::f32);
  const Tensor gathered = make_blank(stream, 1000 * comm.size(), DType::f32);
  comm.all_gather(t, gathered, stream)->wait(stream);
  const int next = (comm.rank() + 1) % comm.size();
  const int previous = (comm.rank() + comm.size() - 1) % comm.size();
  const Tensor received = make_blank(stream, 1000, DType::f32);
  comm.send_recv({Transfer::send(t, next), Transfer::recv(received, previous)}, stream)->wait(stream);
  recorder.set_step(0);
  ASSERT_EQ(recorder.num_records(), before + 3);
  const std::vector<FlightRecord> all = recorder.records();
  const FlightRecord& gather = all[all.size() - 3];
  EXPECT_EQ(gather.step, 41);
  EXPECT_EQ(gather.op, CommOp::all_gather);
  EXPECT_EQ(gather.group, comm.name());
  EXPECT_EQ(gather.bytes, 4000 * comm.size());
  EXPECT_EQ(all[all.size() - 2].op, CommOp::send);
  EXPECT_EQ(all[all.size() - 2].peer, next);
  EXPECT_EQ(all[all.size() - 1].op, CommOp::recv);
  EXPECT_EQ(all[all.size() - 1].bytes, 4000);
  for (size_t i = all.size() - 3; i < all.size(); ++i) {
    EXPECT_LE(all[i].called, all[i].started);
    EXPECT_LE(all[i].started, all[i].finished);
    EXPECT_NE(all[i].finished, FlightRecord::kNotYet);
  }
}

void test_own_mistakes(Communicator& comm, Stream& stream) {
  const Tensor t = make_blank(stream, 6 * comm.size() + 1, DType::f32);
  const Tensor other = make_blank(stream, 6, DType::i32);
  EXPECT_THROW(comm.reduce_scatter(t, other, ReduceOp::sum, stream), BugError);
  EXPECT_THROW(comm.all_gather(other, t, stream), BugError);
  EXPECT_THROW(comm.broadcast(t, comm.size(), stream), BugError);
  EXPECT_THROW(comm.send_recv({Transfer::send(t, -1)}, stream), BugError);
  EXPECT_THROW(comm.all_to_all(t, t, stream), BugError);
  EXPECT_THROW(comm.all_to_all_v(t, std::vector<int64_t>(1, -1), t, std::vector<int64_t>(1, 0), stream), BugError);
  comm.barrier(stream)->wait(stream);  // a refused call leaves nothing behind
}

// ---- over 2^31 bytes

constexpr int64_t kLarge = (int64_t{1} << 31) + 4098;  // even, so that two ranks share it
constexpr int64_t kPeriod = 251 * 4096;

// Byte i is (a * (i % 251) + b) % 256.
std::vector<uint8_t> pattern(int a, int b) {
  std::vector<uint8_t> bytes(static_cast<size_t>(kPeriod));
  for (int64_t i = 0; i < kPeriod; ++i) bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(a * (i % 251) + b);
  return bytes;
}

void fill_pattern(const Tensor& tensor, int a, int b) {
  const std::vector<uint8_t> bytes = pattern(a, b);
  for (int64_t i = 0; i < tensor.numel(); i += kPeriod) {
    std::memcpy(tensor.data<uint8_t>() + i, bytes.data(), static_cast<size_t>(std::min(kPeriod, tensor.numel() - i)));
  }
}

// Element i of `tensor` is element i + `shift` of the pattern.
void expect_pattern(const Tensor& tensor, int a, int b, int64_t shift, const char* what) {
  std::vector<uint8_t> bytes = pattern(a, b);
  std::rotate(bytes.begin(), bytes.begin() + shift % 251, bytes.end());
  for (int64_t i = 0; i < tensor.numel(); i += kPeriod) {
    const auto n = static_cast<size_t>(std::min(kPeriod, tensor.numel() - i));
    if (std::memcmp(tensor.data<uint8_t>() + i, bytes.data(), n) == 0) continue;
    ADD_FAILURE() << what << ": wrong bytes behind element " << i;
    return;
  }
}

void test_large(Communicator& comm, Stream& stream) {
  ASSERT_EQ(comm.size(), 2);
  const int rank = comm.rank();
  const int other = 1 - rank;
  const Tensor x = Tensor::empty(stream, {kLarge}, DType::u8);
  const Tensor y = Tensor::empty(stream, {kLarge}, DType::u8);
  const int64_t half = kLarge / 2;
  fill_pattern(x, 1, rank);
  comm.all_to_all(x, y, stream)->wait(stream);
  expect_pattern(y.slice(0, half), 1, 0, rank * half, "all_to_all");
  expect_pattern(y.slice(half, kLarge), 1, 1, rank * half, "all_to_all");
  comm.send_recv({Transfer::send(x, other), Transfer::recv(y, other)}, stream)->wait(stream);
  expect_pattern(y, 1, other, 0, "send_recv");
  const std::vector<int64_t> sends = rank == 0 ? std::vector<int64_t>{0, kLarge} : std::vector<int64_t>{3, 0};
  const std::vector<int64_t> recvs = rank == 0 ? std::vector<int64_t>{0, 3} : std::vector<int64_t>{kLarge, 0};
  comm.all_to_all_v(x, sends, y, recvs, stream)->wait(stream);
  expect_pattern(rank == 0 ? y.slice(0, 3) : y, 1, other, 0, "all_to_all_v");
  comm.reduce_scatter(x, y.slice(0, half), ReduceOp::sum, stream)->wait(stream);
  expect_pattern(y.slice(0, half), 2, 1, rank * half, "reduce_scatter");
  comm.all_gather(x.slice(rank * half, (rank + 1) * half), x, stream)->wait(stream);
  expect_pattern(x.slice(0, half), 1, 0, 0, "all_gather");
  expect_pattern(x.slice(half, kLarge), 1, 1, half, "all_gather");
  fill_pattern(y, 3, 5 * rank);
  comm.all_reduce(y, ReduceOp::sum, stream)->wait(stream);
  expect_pattern(y, 6, 5, 0, "all_reduce");
  comm.broadcast(rank == 0 ? x : y, /*root=*/1, stream)->wait(stream);
  if (rank == 0) expect_pattern(x, 6, 5, 0, "broadcast");
}

}  // namespace

const std::vector<ConformanceCase>& conformance_cases() {
  static const std::vector<ConformanceCase> cases = {
      {"all_reduce", test_all_reduce},
      {"reduce_scatter", test_reduce_scatter},
      {"all_gather", test_all_gather},
      {"all_to_all", test_all_to_all},
      {"all_to_all_v", test_all_to_all_v},
      {"broadcast", test_broadcast},
      {"send_recv", test_send_recv},
      {"pipeline", test_pipeline},
      {"outstanding", test_outstanding},
      {"groups", test_groups},
      {"independent_groups", test_independent_groups},
      {"rank_order", test_rank_order},
      {"special_values", test_special_values},
      {"recorder", test_recorder},
      {"own_mistakes", test_own_mistakes},
  };
  return cases;
}

const std::vector<ConformanceCase>& large_conformance_cases() {
  static const std::vector<ConformanceCase> cases = {{"large", test_large}};
  return cases;
}

}  // namespace trireme
