#include "tests/parallel/comm_conformance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/parallel/comm_values.h"

namespace trireme {
namespace {

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
  for (const DType dtype : kCommDTypes) {
    for (const ReduceOp op : kReduceOps) {
      for (const int64_t n : kCommSizes) {
        const Tensor t = make(stream, n, dtype, [&](int64_t i) { return value_of(comm.rank(), i); });
        comm.all_reduce(t, op, stream)->wait(stream);
        expect_values(
            stream, t, [&](int64_t i) { return reduced(op, comm.size(), i); }, "all_reduce");
      }
    }
  }
}

void test_reduce_scatter(Communicator& comm, Stream& stream) {
  for (const DType dtype : kCommDTypes) {
    for (const ReduceOp op : kReduceOps) {
      for (const int64_t n : kCommSizes) {
        const Tensor in = make(stream, n * comm.size(), dtype, [&](int64_t i) { return value_of(comm.rank(), i); });
        const Tensor out = make_blank(stream, n, dtype);
        const auto expected = [&](int64_t i) { return reduced(op, comm.size(), comm.rank() * n + i); };
        comm.reduce_scatter(in, out, op, stream)->wait(stream);
        expect_values(stream, out, expected, "reduce_scatter");
        const Tensor own = in.slice(comm.rank() * n, (comm.rank() + 1) * n);
        comm.reduce_scatter(in, own, op, stream)->wait(stream);
        expect_values(stream, own, expected, "reduce_scatter in place");
      }
    }
  }
}

void test_all_gather(Communicator& comm, Stream& stream) {
  for (const DType dtype : kCommDTypes) {
    for (const int64_t n : kCommSizes) {
      const auto mine = [&](int64_t i) { return value_of(comm.rank(), i); };
      const auto expected = [&](int64_t i) { return value_of(static_cast<int>(i / n), i % n); };
      const Tensor in = make(stream, n, dtype, mine);
      const Tensor out = make_blank(stream, n * comm.size(), dtype);
      comm.all_gather(in, out, stream)->wait(stream);
      expect_values(stream, out, expected, "all_gather");
      const Tensor whole = make_blank(stream, n * comm.size(), dtype);
      const Tensor own = whole.slice(comm.rank() * n, (comm.rank() + 1) * n);
      const Tensor own_values = fetch(stream, own);
      for (int64_t i = 0; i < n; ++i) store(own_values, i, mine(i));
      put(stream, own_values, own);
      comm.all_gather(own, whole, stream)->wait(stream);
      expect_values(stream, whole, expected, "all_gather in place");
    }
  }
}

void test_all_to_all(Communicator& comm, Stream& stream) {
  for (const DType dtype : kCommDTypes) {
    for (const int64_t n : kCommSizes) {
      // Element i of the block from a to b.
      const auto element = [](int from, int to, int64_t i) { return value_of(from + 3 * to, i); };
      const Tensor in = make(stream, n * comm.size(), dtype,
                             [&](int64_t i) { return element(comm.rank(), static_cast<int>(i / n), i % n); });
      const Tensor out = make_blank(stream, n * comm.size(), dtype);
      comm.all_to_all(in, out, stream)->wait(stream);
      expect_values(
          stream, out, [&](int64_t i) { return element(static_cast<int>(i / n), comm.rank(), i % n); }, "all_to_all");
    }
  }
}

void test_all_to_all_v(Communicator& comm, Stream& stream) {
  const auto size = static_cast<size_t>(comm.size());
  for (const DType dtype : kCommDTypes) {
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
      const Tensor in_values = fetch(stream, in);
      int64_t place = 0;
      for (int to = 0; to < comm.size(); ++to) {
        for (int64_t i = 0; i < count(comm.rank(), to); ++i) {
          store(in_values, place++, value_of(comm.rank() + 3 * to, i));
        }
      }
      put(stream, in_values, in);
      const Tensor out = make_blank(stream, total(recvs) + 3, dtype);
      comm.all_to_all_v(in, sends, out, recvs, stream)->wait(stream);
      place = 0;
      for (int from = 0; from < comm.size(); ++from) {
        const int64_t c = count(from, comm.rank());
        expect_values(
            stream, out.slice(place, place + c), [&](int64_t i) { return value_of(from + 3 * comm.rank(), i); },
            "all_to_all_v");
        place += c;
      }
      expect_values(
          stream, out.slice(place, place + 3), [](int64_t) { return 99; }, "all_to_all_v beyond the counts");
    }
  }
}

void test_broadcast(Communicator& comm, Stream& stream) {
  for (const DType dtype : kCommDTypes) {
    for (const int64_t n : kCommSizes) {
      for (int root = 0; root < comm.size(); ++root) {
        const Tensor t = make(stream, n, dtype, [&](int64_t i) { return value_of(comm.rank(), i); });
        comm.broadcast(t, root, stream)->wait(stream);
        expect_values(
            stream, t, [&](int64_t i) { return value_of(root, i); }, "broadcast");
      }
    }
  }
}

void test_send_recv(Communicator& comm, Stream& stream) {
  const int next = (comm.rank() + 1) % comm.size();
  const int previous = (comm.rank() + comm.size() - 1) % comm.size();
  const auto element = [](int from, int which, int64_t i) { return value_of(from + 2 * which, i); };
  for (const DType dtype : kCommDTypes) {
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
            stream, received[static_cast<size_t>(which)], [&](int64_t i) { return element(from[which], which, i); },
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
      stream, own_copy, [&](int64_t i) { return comm.rank() + i; }, "transfer to oneself");
  comm.send_recv({}, stream)->wait(stream);
  for (int m = 0; m < kMicrobatches; ++m) {
    const Tensor t = make(stream, 2000 + m, DType::f32, [&](int64_t i) { return m + i % 5; });
    if (comm.rank() > 0) {
      const Tensor in = make_blank(stream, 2000 + m, DType::f32);
      comm.send_recv({Transfer::recv(in, comm.rank() - 1)}, stream)->wait(stream);
      expect_values(
          stream, in, [&](int64_t i) { return m + comm.rank() - 1 + i % 5; }, "pipeline");
      const Tensor in_values = fetch(stream, in);
      const Tensor t_values = fetch(stream, t);
      for (int64_t i = 0; i < t.numel(); ++i) store(t_values, i, load(in_values, i) + 1);
      put(stream, t_values, t);
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
    stream.synchronize();
    EXPECT_TRUE(work->done());
  }
  for (int k = 0; k < kCalls; ++k) {
    const auto i_k = static_cast<size_t>(k);
    expect_values(
        stream, reduced_tensors[i_k], [&](int64_t i) { return reduced(ReduceOp::sum, comm.size(), i + k); },
        "outstanding all_reduce");
    expect_values(
        stream, gathered[i_k], [&](int64_t i) { return value_of(static_cast<int>(i / (3 * k)) + k, i % (3 * k)); },
        "outstanding all_gather");
  }
}

void expect_group_sum(Communicator& group, const std::vector<int>& members, Stream& stream) {
  const int world_rank = members[static_cast<size_t>(group.rank())];
  const Tensor t = make(stream, 1003, DType::f32, [&](int64_t i) { return value_of(world_rank, i); });
  group.all_reduce(t, ReduceOp::sum, stream)->wait(stream);
  expect_values(
      stream, t,
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
      stream, out, [&](int64_t i) { return comm.size() - 1 - i / 2; }, "backwards");

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
      stream, x, [&](int64_t i) { return reduced(ReduceOp::sum, comm.size(), i); }, "a");
  expect_values(
      stream, y, [&](int64_t i) { return reduced(ReduceOp::sum, comm.size(), i + 1); }, "b");
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
  const WorkHandle work = comm.send_recv({Transfer::send(t, next), Transfer::recv(received, previous)}, stream);
  work->wait(stream);
  stream.synchronize();
  EXPECT_TRUE(work->done());
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
