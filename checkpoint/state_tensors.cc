#include "checkpoint/state_tensors.h"

#include "core/error.h"

namespace trireme {

std::string state_tensor_name(Bucket::Buffer buffer, const std::string& parameter) {
  switch (buffer) {
    case Bucket::Buffer::master: return parameter;
    case Bucket::Buffer::first_moment: return std::string(kOptimizerPrefix) + "first_moment." + parameter;
    case Bucket::Buffer::second_moment: return std::string(kOptimizerPrefix) + "second_moment." + parameter;
    case Bucket::Buffer::gradient: break;
  }
  TRIREME_CHECK(false, "gradients are not saved");
  return {};
}

}  // namespace trireme
