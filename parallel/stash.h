// What one unit keeps from the forward pass of one microbatch for its backward pass. The schedule owns it.
//
// Slots are numbered by the unit (an enum of its own). A stash made with keep = false forgets what is put in: the
// forward pass of an evaluation.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace trireme {

class Stash {
 public:
  explicit Stash(bool keep = true) : keep_(keep) {}

  bool keeps() const { return keep_; }
  void put(int slot, Tensor tensor);
  bool has(int slot) const;
  // REQUIRES: has(slot).
  const Tensor& get(int slot) const;
  // Empties the slot and returns what lay there.
  Tensor take(int slot);
  void drop(int slot);
  // Stash number `i` inside this one, for a part of the unit that numbers its own slots. The reference holds until the
  // first use of a part with a greater number.
  Stash& part(size_t i);
  void clear();
  int64_t bytes() const;  // parts included

 private:
  bool keep_;
  std::vector<Tensor> slots_;
  std::vector<Stash> parts_;
};

}  // namespace trireme
