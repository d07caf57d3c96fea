// How threads of a block wait for each other: __syncthreads, warp operations, and what is said when they do it wrong.
#include <cstdio>
#include <utility>

#include "tests/emulator/block.h"
#include "tests/emulator/race.h"

namespace emulator {

namespace {

const char* name_of(WarpOp op) {
  switch (op) {
    case WarpOp::none: break;
    case WarpOp::sync: return "__syncwarp";
    case WarpOp::shuffle: return "__shfl_sync";
    case WarpOp::shuffle_xor: return "__shfl_xor_sync";
    case WarpOp::shuffle_up: return "__shfl_up_sync";
    case WarpOp::shuffle_down: return "__shfl_down_sync";
    case WarpOp::ballot: return "__ballot_sync";
  }
  return "no operation";
}

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string str(const CudaThread& thread) {
  return "(" + std::to_string(thread.index.x) + ", " + std::to_string(thread.index.y) + ", " +
         std::to_string(thread.index.z) + ")";
}

// The lane that `lane` gets its value from.
int source_lane(WarpOp op, int lane, int argument, int width) {
  const int begin = lane & ~(width - 1);
  int source = lane;
  switch (op) {
    case WarpOp::shuffle: return begin + (argument & (width - 1));
    case WarpOp::shuffle_xor: source = lane ^ argument; break;
    case WarpOp::shuffle_up: source = lane - argument; return source < begin ? lane : source;
    case WarpOp::shuffle_down: source = lane + argument; break;
    default: return lane;
  }
  return source < 0 || source >= begin + width ? lane : source;
}

}  // namespace

void block_barrier() { BlockRunner::running()->barrier(); }

uint64_t warp_operation(WarpOp op, uint32_t mask, uint64_t value, int argument, int width) {
  return BlockRunner::running()->warp_operation(op, mask, value, argument, width);
}

void BlockRunner::barrier() {
  current_->state = ThreadState::at_barrier;
  if (++num_at_barrier_ == num_threads_) complete_barrier();
  wait();
}

void BlockRunner::complete_barrier() {
  num_at_barrier_ = 0;
  if (race_fibers_) order_accesses(threads_.get(), num_threads_, ~0u);
  if (order_ == Order::seeded) make_order(order_of_threads_, num_threads_);
  for (int i = 0; i < num_threads_; ++i) push(threads_[order_of_threads_[i]]);
}

// What each of the threads did before comes before what each of them does next. The waiting ones lend their place.
void BlockRunner::order_accesses(CudaThread* threads, int count, uint32_t mask) {
  char* token = race::new_token();
  for (int pass = 0; pass < 2; ++pass) {
    for (int i = 0; i < count; ++i) {
      if ((mask >> (i % kWarpLanes) & 1) == 0) continue;
      switch_race_fiber(threads[i]);
      if (pass == 0) race::release(token);
      if (pass == 1) race::acquire(token);
    }
  }
  switch_race_fiber(*current_);
  race::delete_token(token);
}

uint64_t BlockRunner::warp_operation(WarpOp op, uint32_t mask, uint64_t value, int argument, int width) {
  CudaThread& me = *current_;
  const int lane = me.number % kWarpLanes;
  const int warp = me.number / kWarpLanes;
  me.state = ThreadState::in_warp;
  me.op = op;
  me.mask = mask;
  me.value = value;
  me.argument = argument;
  me.width = static_cast<uint8_t>(width);
  if ((mask >> lane & 1) == 0) fail(std::string(name_of(op)) + " of a lane that its mask " + hex(mask) + " leaves out");
  const uint32_t waiting = waiting_lanes_[warp] |= 1u << lane;
  if ((waiting & mask) == mask) {
    waiting_lanes_[warp] = waiting & ~mask;
    complete_warp(&threads_[warp * kWarpLanes], mask);
  }
  wait();
  return me.result;
}

void BlockRunner::complete_warp(CudaThread* lanes, uint32_t mask) {
  const WarpOp op = current_->op;
  uint32_t ballot = 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const CudaThread& lane = lanes[__builtin_ctz(rest)];
    if (lane.op != op || lane.mask != mask) {
      fail("lanes of one warp disagree: thread " + str(*current_) + " is in " + name_of(op) + " with mask " +
           hex(mask) + ", thread " + str(lane) + " in " + name_of(lane.op) + " with mask " + hex(lane.mask));
    }
    ballot |= static_cast<uint32_t>(lane.value) << __builtin_ctz(rest);
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int number = __builtin_ctz(rest);
    CudaThread& lane = lanes[number];
    if (op == WarpOp::ballot) {
      lane.result = ballot;
    } else if (op != WarpOp::sync) {
      const int source = source_lane(op, number, lane.argument, lane.width);
      // The value of a lane that takes no part is undefined: a NaN shows.
      lane.result = (mask >> source & 1) != 0 ? lanes[source].value : ~uint64_t{0};
    }
  }
  // A shuffle or a ballot makes its lanes wait, but the CUDA guide promises no order of memory from them.
  if (race_fibers_ && op == WarpOp::sync) order_accesses(lanes, kWarpLanes, mask);
  if (order_ == Order::forward) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) push(lanes[__builtin_ctz(rest)]);
    return;
  }
  uint16_t order[kWarpLanes];
  make_order(order, kWarpLanes);
  for (const uint16_t number : order) {
    if ((mask >> number & 1) != 0) push(lanes[number]);
  }
}

std::string BlockRunner::where() const {
  return grid_->kernel->name + ", block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
         std::to_string(blockIdx.z) + ")";
}

// Not all threads have returned, and none can go on.
void BlockRunner::deadlock() {
  int at_barrier = 0;
  const CudaThread* in_warp = nullptr;
  int num_in_warp = 0;
  for (int i = 0; i < num_threads_; ++i) {
    const CudaThread& thread = threads_[i];
    if (thread.state == ThreadState::at_barrier) ++at_barrier;
    if (thread.state == ThreadState::in_warp) {
      if (in_warp == nullptr) in_warp = &thread;
      ++num_in_warp;
    }
  }
  std::string text = "threads wait in vain: of " + std::to_string(num_threads_) + ", " + std::to_string(at_barrier) +
                     " wait at __syncthreads, " + std::to_string(num_in_warp) + " in warp operations, " +
                     std::to_string(num_returned_) + " have returned";
  if (in_warp != nullptr) {
    const int warp = in_warp->number / kWarpLanes;
    const int size = num_threads_ - warp * kWarpLanes;
    const uint32_t exist = size >= kWarpLanes ? ~0u : (1u << size) - 1;
    text += "; thread " + str(*in_warp) + " is in " + name_of(in_warp->op) + " with mask " + hex(in_warp->mask) +
            ", of which lanes " + hex(in_warp->mask & ~waiting_lanes_[warp]) + " don't come";
    if ((in_warp->mask & ~exist) != 0) text += " (the block's last warp has the lanes " + hex(exist) + ")";
  }
  fail(std::move(text));
}

}  // namespace emulator
