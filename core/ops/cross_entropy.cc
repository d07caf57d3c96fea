#include "core/ops/cross_entropy.h"

#include "core/ops/check.h"
#include "core/ops/dispatch.h"
#include "core/ops/part_stats.h"

namespace trireme::ops {

void cross_entropy(Stream& stream, const Tensor& logits, const Tensor& labels, const VocabularyPart& part,
                   const Tensor& stats_of_all, const Tensor& grad_scale, Tensor& losses, Tensor& dlogits) {
  check_float_matrix(stream, "cross_entropy", "logits", logits);
  check_tensor(stream, "cross_entropy", "labels", labels, DType::i32, {logits.dim(0)});
  check_part("cross_entropy", part, logits.dim(1));
  if (stats_of_all.defined()) {
    TRIREME_CHECK(stats_of_all.ndim() == 3, "stats of parts have three dims");
    check_tensor(stream, "cross_entropy", "stats_of_all", stats_of_all, DType::f32,
                 {stats_of_all.dim(0), logits.dim(0), kPartStatsColumns});
  } else {
    TRIREME_CHECK(part.first == 0, "the loss of a part needs the stats of all");
  }
  check_tensor(stream, "cross_entropy", "losses", losses, DType::f32, {logits.dim(0)});
  if (dlogits.defined()) {
    check_float_matrix(stream, "cross_entropy", "dlogits", dlogits);
    check_tensor(stream, "cross_entropy", "dlogits", dlogits, dlogits.dtype(), logits.shape());
    check_tensor(stream, "cross_entropy", "grad_scale", grad_scale, DType::f32, {1});
  }
  TRIREME_DISPATCH(stream, cross_entropy(stream, logits, labels, part, stats_of_all, grad_scale, losses, dlogits));
}

void cross_entropy_stats(Stream& stream, const Tensor& logits, const Tensor& labels, const VocabularyPart& part,
                         Tensor& stats) {
  check_float_matrix(stream, "cross_entropy_stats", "logits", logits);
  check_tensor(stream, "cross_entropy_stats", "labels", labels, DType::i32, {logits.dim(0)});
  check_part("cross_entropy_stats", part, logits.dim(1));
  check_tensor(stream, "cross_entropy_stats", "stats", stats, DType::f32, {logits.dim(0), kPartStatsColumns});
  TRIREME_DISPATCH(stream, cross_entropy_stats(stream, logits, labels, part, stats));
}

void inverse_count(Stream& stream, const Tensor& count, Tensor& scale) {
  check_tensor(stream, "inverse_count", "count", count, DType::i64, {1});
  check_tensor(stream, "inverse_count", "scale", scale, DType::f32, {1});
  TRIREME_DISPATCH(stream, inverse_count(stream, count, scale));
}

}  // namespace trireme::ops
