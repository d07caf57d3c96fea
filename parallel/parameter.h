// Parameters and the weights they form.
//
// A `Parameter` is one unfused logical tensor, [out, in] where it is a matrix: what initial values, weight decay,
// norms and checkpoints speak of. A `Weight` is the operand of an op: one parameter, or several that lie one after
// another, such as q, k and v as one matrix [(H + 2·KV)·D, C]. Memory belongs to the `Bucket` that a weight lies in.
//
// A rank holds a part of each parameter: all of it, or its share of the dim that `placement` splits; a parameter that is
// held along an axis exists on the ranks that hold it alone. Shapes of weights, and of tensors in buckets, are those of
// the parts, with their padding.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"
#include "parallel/local_part.h"
#include "parallel/placement.h"

namespace trireme {

// What a parameter is for. Weight decay acts on matrices and embeddings. A buffer belongs to the state of the model, but
// no gradient reaches it and no optimizer: fp32, the same on all ranks, changed by whoever owns it.
enum class Role : uint8_t { matrix, embedding, norm, bias, buffer };

// Initial value: normal(0, value), or the constant `value`.
struct Initializer {
  enum class Kind : uint8_t { normal, constant };
  Kind kind = Kind::constant;
  double value = 0;
};

struct Parameter {
  std::string name;  // unique in the model
  Shape shape;       // global
  Role role = Role::matrix;
  Initializer init;
  Placement placement;           // of the value
  Placement gradient_placement;  // before reduction: partial over the data axes, at least
  bool full_precision = false;   // fp32, its gradient too, whatever the run computes in
  std::set<int> chunks = {0};    // the pipeline chunks (stages of the model) that use it

  // Splits along a dim give each rank a multiple of this many indices in memory; the last ones may be padding.
  int64_t granule = 1;
  LocalPart part;   // on this rank; all of it until `place`
  Tensor value;     // of local_shape(), compute dtype, a view into the bucket
  Tensor gradient;  // of local_shape(), f32 or bf16, likewise

  // Derives `part` from `placement`. REQUIRES: at most one axis of degree > 1 splits.
  void place(const Mesh& mesh);
  Shape local_shape() const;

  bool decays() const { return role == Role::matrix || role == Role::embedding; }
  bool is_buffer() const { return role == Role::buffer; }
  bool is_fp32() const { return full_precision || is_buffer(); }
  // The axis over whose ranks ZeRO shares out the parameter, and the one of the replicas of such groups.
  Axis shard_axis() const { return of_expert() ? Axis::expert_shard : Axis::data_shard; }
  Axis replica_axis() const { return of_expert() ? Axis::expert_replica : Axis::data_replica; }
  bool of_expert() const;  // by its gradient's placement
};

// An expert's parameter: held along Axis::expert, so to be listed by the ranks of one coordinate only; split over
// expert_tensor along `dim`; its gradient is a sum over kExpertDataAxes.
Parameter expert_parameter(Parameter parameter, int dim, int64_t granule);
// The same, of which every rank of expert_tensor has all and makes the whole gradient.
Parameter expert_parameter(Parameter parameter);

class Weight {
 public:
  Weight() = default;
  explicit Weight(Parameter parameter) { parts.push_back(std::move(parameter)); }

  // On this rank: the parts are joined along dim 0; all other dims agree.
  Shape shape() const;
  int64_t numel() const { return shape().numel(); }
  explicit operator bool() const { return !parts.empty(); }

  // True when the next gradient op must add: an earlier one of this step wrote already. Call once for each op that
  // writes the whole gradient.
  bool accumulate_gradient() {
    const bool accumulate = gradient_written;
    gradient_written = true;
    return accumulate;
  }

  std::vector<Parameter> parts;
  Tensor value;     // of `shape`, compute dtype
  Tensor gradient;  // of `shape`, f32 or bf16
  bool gradient_written = false;
};

}  // namespace trireme
