// What one unit keeps from the forward pass of one microbatch for its backward pass. The schedule owns it.
//
// Slots are numbered by the unit (an enum of its own). A stash may forget what is put in: that of an evaluation everything,
// that of a unit whose forward will run again all but decisions (`put_always`), which the second run finds there.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace trireme {

class Stash {
 public:
  enum class Keep : uint8_t { everything, decisions, nothing };
  explicit Stash(Keep keep = Keep::everything) : keep_(keep) {}

  void put(int slot, Tensor tensor);
  // For what forward must not decide anew when it runs again.
  void put_always(int slot, Tensor tensor);
  // What is put in from now on stays, in the parts, too.
  void keep_everything();
  bool has(int slot) const;
  // REQUIRES: has(slot).
  const Tensor& get(int slot) const;
  // Empties the slot and returns what lay there.
  Tensor take(int slot);
  void drop(int slot);
  // Stash number `i` inside this one, for a part of the unit that numbers its own slots. The reference holds until the
  // first use of a part with a greater number.
  Stash& part(size_t i);
  size_t num_parts() const { return parts_.size(); }
  void clear();
  int64_t bytes() const;  // parts included

 private:
  void store(int slot, Tensor tensor);

  Keep keep_;
  std::vector<Tensor> slots_;
  std::vector<Stash> parts_;
};

}  // namespace trireme
