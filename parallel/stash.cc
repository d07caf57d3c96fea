#include "parallel/stash.h"

#include <utility>

namespace trireme {

void Stash::put(int slot, Tensor tensor) {
  if (keep_ == Keep::everything) store(slot, std::move(tensor));
}

void Stash::put_always(int slot, Tensor tensor) {
  if (keep_ != Keep::nothing) store(slot, std::move(tensor));
}

void Stash::keep_everything() {
  keep_ = Keep::everything;
  for (Stash& part : parts_) part.keep_everything();
}

void Stash::store(int slot, Tensor tensor) {
  const size_t i = static_cast<size_t>(slot);
  if (slots_.size() <= i) slots_.resize(i + 1);
  slots_[i] = std::move(tensor);
}

bool Stash::has(int slot) const {
  const size_t i = static_cast<size_t>(slot);
  return i < slots_.size() && slots_[i].defined();
}

const Tensor& Stash::get(int slot) const {
  TRIREME_CHECK(has(slot), "an empty slot of a stash");
  return slots_[static_cast<size_t>(slot)];
}

Tensor Stash::take(int slot) {
  TRIREME_CHECK(has(slot), "an empty slot of a stash");
  return std::exchange(slots_[static_cast<size_t>(slot)], Tensor{});
}

void Stash::drop(int slot) {
  if (has(slot)) slots_[static_cast<size_t>(slot)] = Tensor{};
}

Stash& Stash::part(size_t i) {
  while (parts_.size() <= i) parts_.emplace_back(keep_);
  return parts_[i];
}

void Stash::clear() {
  slots_.clear();
  parts_.clear();
}

int64_t Stash::bytes() const {
  int64_t total = 0;
  for (const Stash& part : parts_) total += part.bytes();
  for (const Tensor& tensor : slots_) {
    if (tensor.defined()) total += tensor.bytes();
  }
  return total;
}

}  // namespace trireme
