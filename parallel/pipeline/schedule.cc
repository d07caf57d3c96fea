#include "parallel/pipeline/schedule.h"

#include <algorithm>
#include <array>

namespace trireme {

const char* name_of(ActionKind kind) {
  static constexpr std::array<const char*, kNumActionKinds> kNames = {
      "forward",         "backward",        "backward_input", "backward_weight",
      "send_activation", "recv_activation", "send_gradient",  "recv_gradient"};
  return kNames[static_cast<size_t>(kind)];
}

std::string Action::str() const {
  std::string text =
      std::string(name_of(kind)) + "(chunk " + std::to_string(chunk) + ", microbatch " + std::to_string(microbatch);
  if (!is_compute(kind)) text += (is_send(kind) ? ", to " : ", from ") + std::to_string(peer);
  return text + ")";
}

std::vector<int> Schedule::chunks_of(int rank) const {
  std::vector<int> chunks;
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    if (rank_of(chunk) == rank) chunks.push_back(chunk);
  }
  return chunks;
}

int peak_stashes(const Schedule& schedule, int rank) {
  if (schedule.forward_only) return 0;
  int live = 0;
  int peak = 0;
  for (const Action& action : schedule.program(rank)) {
    if (action.kind == ActionKind::forward) peak = std::max(peak, ++live);
    if (action.kind == ActionKind::backward || action.kind == ActionKind::backward_weight) --live;
  }
  return peak;
}

}  // namespace trireme
