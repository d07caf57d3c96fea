#include "core/ops/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/device/cpu_features.h"
#include "core/device/thread_pool.h"

namespace trireme::cpu {

namespace {

// Tasks that a call is cut into, at least, where its size allows. A constant, because the cuts decide in which order
// dK and dV are added.
constexpr int64_t kMinTasks = 32;
constexpr int64_t kMinUnitsPerTask = 4;

// The tasks of a call, those of one key head together.
struct Plan {
  std::vector<AttentionTask> tasks;
  int64_t num_shares = 1;     // tasks of one key head
  int64_t shared_floats = 0;  // of dK and dV of all tasks; 0 with one task for each key head
};

int64_t round_up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

Plan make_plan(const AttentionKernels& kernels, const ops::AttentionShape& shape) {
  Plan plan;
  const int64_t per_head = (shape.sequence + kAttentionRowTile - 1) / kAttentionRowTile;
  const int64_t num_units = shape.num_heads / shape.num_kv_heads * per_head;
  const int64_t num_pairs = shape.batch * shape.num_kv_heads;
  if (num_units == 0 || num_pairs == 0) return plan;
  plan.num_shares = std::clamp<int64_t>((kMinTasks + num_pairs - 1) / num_pairs, 1,
                                        std::max<int64_t>(1, num_units / kMinUnitsPerTask));
  // Cuts at equal cost; the cost of unit i of a head is its number of key tiles, i + 1.
  std::vector<int64_t> cuts(static_cast<size_t>(plan.num_shares) + 1, num_units);
  const int64_t head_cost = per_head * (per_head + 1) / 2;
  const int64_t total = num_units / per_head * head_cost;
  int64_t share = 0, cost = 0;
  for (int64_t unit = 0; unit < num_units; ++unit) {
    while (share < plan.num_shares && cost * plan.num_shares >= share * total)
      cuts[static_cast<size_t>(share++)] = unit;
    cost += unit % per_head + 1;
  }
  const int64_t padded_dim = round_up_to(shape.head_dim, kernels.pad);
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    for (int64_t s = 0; s < plan.num_shares; ++s) {
      AttentionTask task{.batch = pair / shape.num_kv_heads, .kv_head = pair % shape.num_kv_heads};
      task.unit_begin = cuts[static_cast<size_t>(s)];
      task.unit_end = cuts[static_cast<size_t>(s) + 1];
      for (int64_t unit = task.unit_begin; unit < task.unit_end; ++unit) {
        task.key_end = std::max(task.key_end, std::min(shape.sequence, (unit % per_head + 1) * kAttentionRowTile));
      }
      if (plan.num_shares > 1) plan.shared_floats += 2 * round_up_to(task.key_end, kAttentionRowTile) * padded_dim;
      plan.tasks.push_back(task);
    }
  }
  return plan;
}

AttentionCall make_call(const ops::AttentionShape& shape, const Tensor& qkv, const Tensor& document_start,
                        const Tensor& out, const Tensor& lse) {
  AttentionCall call;
  call.sequence = shape.sequence;
  call.num_heads = shape.num_heads;
  call.num_kv_heads = shape.num_kv_heads;
  call.head_dim = shape.head_dim;
  call.scale = shape.scale;
  call.qkv = qkv.raw();
  call.out = out.raw();
  call.lse = lse.data<float>();
  if (document_start.defined()) {
    call.document_start = document_start.data<int32_t>();
    for (int64_t i = 0; i < document_start.numel(); ++i) {
      const int64_t t = i % shape.sequence;
      const int32_t start = call.document_start[i];
      TRIREME_CHECK(start >= 0 && start <= t, "document_start must be in [0, t]");
      TRIREME_CHECK(t == 0 || start >= call.document_start[i - 1], "document_start must not decrease");
    }
  }
  return call;
}

// Calls body(task, scratch) for every task, with `scratch_bytes` of memory that no other running task uses.
template <class Body>
void run_tasks(Stream& stream, int64_t num_tasks, int64_t scratch_bytes, Body&& body) {
  const int64_t num_lanes = std::min<int64_t>(num_tasks, stream.pool().size());
  const Tensor scratch = Tensor::empty(stream, {num_lanes, scratch_bytes}, DType::u8, MemoryTag::workspace);
  std::byte* const base = static_cast<std::byte*>(scratch.raw());
  std::atomic<int64_t> next{0};
  stream.pool().run(num_lanes, [&](int64_t lane) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) {
      body(task, base + lane * scratch_bytes);
    }
  });
}

int64_t scratch_bytes(const AttentionKernels& kernels, const AttentionCall& call, bool backward) {
  return round_up_to(kernels.scratch_bytes(call, backward), 256);
}

bool supported(AttentionIsa isa) {
  const CpuFeatures& features = cpu_features();
  switch (isa) {
    case AttentionIsa::avx2: return features.avx2;
    case AttentionIsa::avx512: return features.avx512;
    case AttentionIsa::avx512_bf16: return features.avx512 && features.avx512_bf16;
  }
  return false;
}

const AttentionKernels& fastest(DType dtype) { return *attention_kernels(dtype).front(); }

}  // namespace

std::vector<const AttentionKernels*> attention_kernels(DType dtype) {
  std::vector<const AttentionKernels*> all = {&kAttentionAvx512F32, &kAttentionAvx2F32};
  if (dtype == DType::bf16) all = {&kAttentionAvx512DotBf16, &kAttentionAvx512Bf16, &kAttentionAvx2Bf16};
  std::erase_if(all, [](const AttentionKernels* kernels) { return !supported(kernels->isa); });
  return all;
}

void attention_forward(const AttentionKernels& kernels, Stream& stream, const ops::AttentionShape& shape,
                       const Tensor& qkv, const Tensor& document_start, Tensor& out, Tensor& lse) {
  const AttentionCall call = make_call(shape, qkv, document_start, out, lse);
  const Plan plan = make_plan(kernels, shape);
  if (plan.tasks.empty()) return;
  run_tasks(stream, static_cast<int64_t>(plan.tasks.size()), scratch_bytes(kernels, call, /*backward=*/false),
            [&](int64_t i, std::byte* scratch) { kernels.forward(call, plan.tasks[static_cast<size_t>(i)], scratch); });
}

void attention_backward(const AttentionKernels& kernels, Stream& stream, const ops::AttentionShape& shape,
                        const Tensor& qkv, const Tensor& document_start, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, Tensor& dqkv) {
  AttentionCall call = make_call(shape, qkv, document_start, out, lse);
  call.dout = dout.raw();
  call.dqkv = dqkv.raw();
  Plan plan = make_plan(kernels, shape);
  if (plan.tasks.empty()) return;
  Tensor shared;
  if (plan.shared_floats > 0) {
    shared = Tensor::empty(stream, {plan.shared_floats}, DType::f32, MemoryTag::workspace);
    float* next = shared.data<float>();
    const int64_t padded_dim = round_up_to(shape.head_dim, kernels.pad);
    for (AttentionTask& task : plan.tasks) {
      const int64_t count = round_up_to(task.key_end, kAttentionRowTile) * padded_dim;
      task.dk = next;
      task.dv = next + count;
      next += 2 * count;
    }
  }
  run_tasks(
      stream, static_cast<int64_t>(plan.tasks.size()), scratch_bytes(kernels, call, /*backward=*/true),
      [&](int64_t i, std::byte* scratch) { kernels.backward(call, plan.tasks[static_cast<size_t>(i)], scratch); });
  if (plan.shared_floats == 0) return;
  const int64_t num_tiles = (shape.sequence + kAttentionRowTile - 1) / kAttentionRowTile;
  stream.pool().run(shape.batch * shape.num_kv_heads * num_tiles, [&](int64_t i) {
    const int64_t begin = i % num_tiles * kAttentionRowTile;
    kernels.write_kv(call, &plan.tasks[static_cast<size_t>(i / num_tiles * plan.num_shares)], plan.num_shares, begin,
                     std::min(begin + kAttentionRowTile, shape.sequence));
  });
}

void attention_forward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                       const Tensor& document_start, Tensor& out, Tensor& lse) {
  attention_forward(fastest(qkv.dtype()), stream, shape, qkv, document_start, out, lse);
}

void attention_backward(Stream& stream, const ops::AttentionShape& shape, const Tensor& qkv,
                        const Tensor& document_start, const Tensor& out, const Tensor& lse, const Tensor& dout,
                        Tensor& dqkv) {
  attention_backward(fastest(qkv.dtype()), stream, shape, qkv, document_start, out, lse, dout, dqkv);
}

void describe_attention(Stream&, const ops::AttentionShape&, DType dtype, bool, std::string& text) {
  text = fastest(dtype).name;
}

}  // namespace trireme::cpu
