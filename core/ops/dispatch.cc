#include "core/ops/dispatch.h"

#include "core/error.h"

namespace trireme::ops {

void fail_no_cuda() {
  throw MachineError(
      {.what = "this program was built without CUDA", .hint = "run.device: cpu, or a build with TRIREME_CUDA=on"});
}

}  // namespace trireme::ops
