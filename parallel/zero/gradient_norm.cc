#include "parallel/zero/gradient_norm.h"

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

bool counts(const Bucket& bucket, const Mesh& mesh) {
  if (bucket.values_of() != nullptr) return false;  // its gradients are in those of the first use
  if (bucket.is_buffer()) return false;
  const AxisSet copies = bucket.copy_axes().without({bucket.shard_axis()});
  if (mesh.group_rank(copies) != 0) return false;
  return !bucket.on_both_ends() || mesh.coordinate(Axis::pipeline) == 0;
}

}  // namespace

void sum_gradient_squares(Stream& stream, const std::vector<Bucket*>& buckets, const Mesh& mesh, Tensor& out) {
  bool first = true;
  for (const Bucket* bucket : buckets) {
    if (!counts(*bucket, mesh)) continue;
    ops::sum_squares(stream, bucket->own_gradient(), out, /*accumulate=*/!first);
    first = false;
  }
  if (first) ops::fill(stream, out, 0);
}

}  // namespace trireme
