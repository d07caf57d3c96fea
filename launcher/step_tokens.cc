#include "launcher/step_tokens.h"

#include "parallel/resolve.h"

namespace trireme {

std::vector<HostMicrobatch> microbatches_of(const StepTokens& t, int64_t step, int64_t micro, const Mesh& mesh) {
  std::vector<HostMicrobatch> list;
  const int64_t count = resolve_microbatches(t.batch, micro, mesh.data_degree());
  for (int64_t j = 0; j < count; ++j) {
    const int64_t sequence = (j * mesh.data_degree() + mesh.data_rank()) * micro;
    const int64_t offset = (step * t.batch + sequence) * t.sequence;
    list.push_back({micro, t.sequence, t.tokens.data() + offset, t.labels.data() + offset, t.positions.data() + offset,
                    t.has_documents ? t.document_start.data() + offset : nullptr});
  }
  return list;
}

}  // namespace trireme
