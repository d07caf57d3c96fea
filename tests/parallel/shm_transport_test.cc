// The shared-memory transport, all ranks stepped by one thread in random orders, so that every interleaving of
// the stages of a collective can happen and a failure repeats; then with real communication threads.
#include "parallel/comm/shm_transport.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "parallel/comm/host_engine.h"
#include "tests/parallel/comm_conformance.h"

namespace trireme {
namespace {

struct FreeAligned {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{4096}); }
};
using Memory = std::unique_ptr<std::byte, FreeAligned>;

Memory zeros(int64_t bytes) {
  Memory memory(new (std::align_val_t{4096}) std::byte[static_cast<size_t>(bytes)]);
  std::memset(memory.get(), 0, static_cast<size_t>(bytes));
  return memory;
}

// Some collective with sizes drawn from `random`, the same for all ranks, with inputs that differ.
struct Drawn {
  std::vector<std::vector<float>> inputs;
  std::vector<std::vector<float>> outputs;
  std::vector<std::vector<float>> expected;
  std::vector<CommCall> calls;
};

Tensor borrow(std::vector<float>& values) { return Tensor::borrow(values.data(), {std::ssize(values)}, DType::f32); }

Drawn draw(int size, std::mt19937& random) {
  constexpr CommOp kOps[] = {CommOp::all_reduce, CommOp::reduce_scatter, CommOp::all_gather, CommOp::all_to_all_v,
                             CommOp::broadcast,  CommOp::barrier,        CommOp::all_reduce};
  const CommOp op = kOps[random() % std::size(kOps)];
  const auto p = static_cast<size_t>(size);
  const size_t block = random() % 3 == 0 ? random() % 4 : random() % 12000;
  const auto value = [&](size_t rank, size_t i) { return static_cast<float>((rank * 13 + i * 7) % 101); };
  Drawn d{.inputs = std::vector<std::vector<float>>(p), .outputs = {}, .expected = {}, .calls = {}};
  d.outputs = d.expected = d.inputs;
  std::vector<std::vector<int64_t>> counts(p, std::vector<int64_t>(p));
  for (auto& row : counts) {
    for (int64_t& c : row) c = random() % 2 == 0 ? 0 : static_cast<int64_t>(random() % 9000);
  }
  const int root = static_cast<int>(random() % p);
  for (size_t r = 0; r < p; ++r) {
    size_t in = block;
    size_t out = block;
    if (op == CommOp::reduce_scatter) in = p * block;
    if (op == CommOp::all_gather) out = p * block;
    if (op == CommOp::all_to_all_v) {
      in = out = 0;
      for (size_t q = 0; q < p; ++q) in += static_cast<size_t>(counts[r][q]), out += static_cast<size_t>(counts[q][r]);
    }
    for (size_t i = 0; i < in; ++i) d.inputs[r].push_back(value(r, i));
    d.outputs[r].assign(out, -1.0F);
  }
  for (size_t r = 0; r < p; ++r) {
    auto& want = d.expected[r];
    if (op == CommOp::all_reduce || op == CommOp::reduce_scatter) {
      want.assign(block, 0.0F);
      const size_t begin = op == CommOp::all_reduce ? 0 : r * block;
      for (size_t q = 0; q < p; ++q) {
        for (size_t i = 0; i < block; ++i) want[i] += d.inputs[q][begin + i];
      }
    }
    if (op == CommOp::all_gather) {
      for (const auto& input : d.inputs) want.insert(want.end(), input.begin(), input.end());
    }
    if (op == CommOp::broadcast) want = d.inputs[static_cast<size_t>(root)];
    if (op == CommOp::barrier) want = d.outputs[r];
    for (size_t q = 0; op == CommOp::all_to_all_v && q < p; ++q) {
      int64_t begin = 0;
      for (size_t before = 0; before < r; ++before) begin += counts[q][before];
      want.insert(want.end(), d.inputs[q].begin() + begin, d.inputs[q].begin() + begin + counts[q][r]);
    }
  }
  for (size_t r = 0; r < p; ++r) {
    CommCall call{.op = op, .root = root};
    if (op == CommOp::all_reduce || op == CommOp::broadcast) d.outputs[r] = d.inputs[r];  // in place
    const bool in_place = op == CommOp::all_reduce || op == CommOp::broadcast;
    if (op != CommOp::barrier) call.input = borrow(in_place ? d.outputs[r] : d.inputs[r]);
    if (op != CommOp::barrier) call.output = borrow(d.outputs[r]);
    if (op == CommOp::all_to_all_v) {
      call.send_counts = counts[r];
      for (size_t q = 0; q < p; ++q) call.recv_counts.push_back(counts[q][r]);
    }
    d.calls.push_back(std::move(call));
  }
  return d;
}

class ShmInterleavings : public ::testing::TestWithParam<int> {};

TEST_P(ShmInterleavings, AnyOrderOfStepsGivesTheResult) {
  const int size = GetParam();
  const auto p = static_cast<size_t>(size);
  for (uint32_t seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    const ShmLayout layout(size, /*chunk_bytes=*/4096);
    const Memory memory = zeros(layout.total_bytes);
    std::vector<Doorbell> bells(p);
    std::vector<Doorbell*> doorbells;
    for (Doorbell& bell : bells) doorbells.push_back(&bell);
    std::vector<std::unique_ptr<ShmTransport>> transports;
    for (int r = 0; r < size; ++r) {
      transports.push_back(std::make_unique<ShmTransport>(r, layout, memory.get(), doorbells));
    }
    constexpr size_t kCalls = 12;
    std::vector<std::unique_ptr<Drawn>> drawn;
    for (size_t c = 0; c < kCalls; ++c) drawn.push_back(std::make_unique<Drawn>(draw(size, random)));
    // Each rank goes through its calls at its own pace; `favourite` runs ahead for a while.
    std::vector<size_t> next(p, 0);
    std::vector<std::unique_ptr<HostOp>> current(p);
    int64_t num_idle = 0;
    size_t favourite = 0;
    for (size_t num_done = 0; num_done < p;) {
      if (random() % 50 == 0) favourite = random() % p;
      const size_t r = random() % 4 != 0 ? favourite : random() % p;
      if (next[r] == kCalls) {
        favourite = random() % p;
        continue;
      }
      if (!current[r]) current[r] = transports[r]->start(drawn[next[r]]->calls[r]);
      num_idle = current[r]->step() ? 0 : num_idle + 1;
      ASSERT_LT(num_idle, 100000) << "stuck, seed " << seed;
      if (!current[r]->finished()) continue;
      current[r].reset();
      if (++next[r] == kCalls) ++num_done;
    }
    for (size_t c = 0; c < kCalls; ++c) {
      for (size_t r = 0; r < p; ++r) {
        ASSERT_EQ(drawn[c]->outputs[r], drawn[c]->expected[r])
            << "seed " << seed << ", " << drawn[c]->calls[r].str() << ", rank " << r;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmInterleavings, ::testing::Values(2, 3, 5));

// Engines with their threads, as in processes of one node, in one process: for ThreadSanitizer too.
TEST(ShmEngines, RunSideBySide) {
  constexpr int kRanks = 3;
  const ShmLayout layout(kRanks, /*chunk_bytes=*/8192);
  const Memory memory = zeros(layout.total_bytes);
  std::vector<Doorbell> bells(kRanks);
  std::vector<Doorbell*> doorbells;
  for (Doorbell& bell : bells) doorbells.push_back(&bell);
  std::vector<std::unique_ptr<HostEngine>> engines;  // after the bells, which their threads use to the end
  for (int r = 0; r < kRanks; ++r) {
    engines.push_back(std::make_unique<HostEngine>([] {}, [] {}));
    engines.back()->run([&] { engines.back()->use_doorbell(&bells[static_cast<size_t>(r)]); });
  }
  std::mt19937 random(7);
  std::vector<std::unique_ptr<Drawn>> drawn;
  for (int c = 0; c < 20; ++c) drawn.push_back(std::make_unique<Drawn>(draw(kRanks, random)));
  FlightRecorder recorder(0);
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      HostEngine& engine = *engines[static_cast<size_t>(r)];
      auto group = std::make_shared<HostGroup>();
      group->transport = std::make_unique<ShmTransport>(r, layout, memory.get(), doorbells);
      group->recorder = &recorder;
      engine.add_group(group);
      std::vector<HostCallPtr> calls;
      for (const auto& d : drawn) {
        calls.push_back(std::make_shared<HostCall>(d->calls[static_cast<size_t>(r)]));
        engine.submit(group, calls.back());
      }
      for (const HostCallPtr& call : calls) call->wait();
      engine.remove_group(group);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& d : drawn) EXPECT_EQ(d->outputs, d->expected);
}

}  // namespace
}  // namespace trireme
