#include "parallel/parameter.h"

namespace trireme {

bool Parameter::of_expert() const {
  return gradient_placement[Axis::expert_shard].kind == AxisPlacement::Kind::partial;
}

Parameter expert_parameter(Parameter parameter) {
  parameter.placement = Placement().hold(Axis::expert);
  parameter.gradient_placement =
      Placement().hold(Axis::expert).partial(Axis::expert_shard).partial(Axis::expert_replica);
  return parameter;
}

Parameter expert_parameter(Parameter parameter, int dim, int64_t granule) {
  parameter = expert_parameter(std::move(parameter));
  parameter.placement.split(Axis::expert_tensor, dim);
  parameter.gradient_placement.split(Axis::expert_tensor, dim);
  parameter.granule = granule;
  return parameter;
}

void Parameter::place(const Mesh& mesh) {
  part = LocalPart::whole(shape);
  bool split = false;
  for (int i = 0; i < kNumAxes; ++i) {
    const Axis axis = static_cast<Axis>(i);
    if (placement[axis].kind != AxisPlacement::Kind::split || (mesh.degree(axis) == 1 && granule == 1)) continue;
    TRIREME_CHECK(!split || mesh.degree(axis) == 1, "a parameter that two axes split");
    if (split) continue;
    split = true;
    part = LocalPart::share(shape, placement[axis].dim, mesh.degree(axis), mesh.coordinate(axis), granule);
  }
}

Shape Parameter::local_shape() const { return part.padded == 0 && part.size == 0 ? shape : part.local_shape(shape); }

Shape Weight::shape() const {
  TRIREME_CHECK(!parts.empty());
  const Shape first = parts.front().local_shape();
  std::vector<int64_t> dims(first.dims().begin(), first.dims().end());
  dims[0] = 0;
  for (const Parameter& part : parts) {
    const Shape shape = part.local_shape();
    TRIREME_CHECK(shape.ndim() == first.ndim());
    for (int i = 1; i < first.ndim(); ++i) TRIREME_CHECK(shape[i] == first[i]);
    dims[0] += shape[0];
  }
  return Shape(std::span<const int64_t>(dims));
}

}  // namespace trireme
