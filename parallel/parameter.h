// Parameters and the weights they form.
//
// A `Parameter` is one unfused logical tensor, [out, in] where it is a matrix: what initial values, weight decay,
// norms and checkpoints speak of. A `Weight` is the operand of an op: one parameter, or several that lie one after
// another, such as q, k and v as one matrix [(H + 2·KV)·D, C]. Memory belongs to the `Bucket` that a weight lies in.
//
// A rank holds a part of each parameter: all of it, or its share of the dim that `placement` splits. Shapes of weights,
// and of tensors in buckets, are those of the parts, with their padding.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"
#include "parallel/local_part.h"
#include "parallel/placement.h"

namespace trireme {

// What a parameter is for. Weight decay acts on matrices and embeddings.
enum class Role : uint8_t { matrix, embedding, norm, bias };

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
};

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
