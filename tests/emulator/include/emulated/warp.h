// Operations of a block and of a warp. Every thread of the block must reach each __syncthreads, every lane of the mask
// each warp operation, with the same mask: the emulator stops the program with a message where one doesn't, also where
// a lane of the mask has returned or doesn't exist.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace emulator {

enum class WarpOp : uint8_t { none, sync, shuffle, shuffle_xor, shuffle_up, shuffle_down, ballot };

void block_barrier();
// Waits for all lanes of `mask`. `value` is this lane's; the result is that of the lane that the operation names with
// `argument` among the `width` neighbouring lanes, or the ballot.
uint64_t warp_operation(WarpOp op, uint32_t mask, uint64_t value, int argument, int width);

template <class T>
inline T shuffle(WarpOp op, uint32_t mask, T value, int argument, int width) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "4- and 8-byte numbers only");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_operation(op, mask, bits, argument, width);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

}  // namespace emulator

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::warp_operation(emulator::WarpOp::sync, mask, 0, 0, 32);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(emulator::warp_operation(emulator::WarpOp::ballot, mask, predicate != 0 ? 1 : 0, 0, 32));
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return emulator::shuffle(emulator::WarpOp::shuffle, mask, value, lane, width);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return emulator::shuffle(emulator::WarpOp::shuffle_xor, mask, value, lanes, width);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulator::shuffle(emulator::WarpOp::shuffle_up, mask, value, static_cast<int>(delta), width);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulator::shuffle(emulator::WarpOp::shuffle_down, mask, value, static_cast<int>(delta), width);
}
