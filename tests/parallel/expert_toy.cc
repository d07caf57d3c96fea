#include "tests/parallel/expert_toy.h"

#include <cmath>

#include "core/ops/elementwise.h"
#include "parallel/zero/gradient_norm.h"
#include "parallel/zero/weight_groups.h"

namespace trireme::testing {

namespace {

Parameter make(const std::string& name, Shape shape, Role role = Role::matrix) {
  Parameter p;
  p.name = name;
  p.shape = shape;
  p.role = role;
  p.init = {Initializer::Kind::normal, 0.5};
  p.gradient_placement.partial(Axis::data_shard).partial(Axis::data_replica);
  return p;
}

int small(const std::string& what, int64_t i, int n) {
  return static_cast<int>(
             uniform_below(random_key(3, what), static_cast<uint64_t>(i), static_cast<uint64_t>(2 * n + 1))) -
         n;
}

}  // namespace

double toy_total(const Parameter& parameter, int64_t element, int microbatch) {
  const std::string what = parameter.name + "/" + std::to_string(microbatch);
  const double whole = small(what, element, 5);
  return parameter.is_fp32() ? whole + small(what + "/fraction", element, 100) / 1024.0 : whole;
}

ExpertToyUnit::ExpertToyUnit(int layer, const Mesh& mesh) : name_("layer " + std::to_string(layer)), mesh_(mesh) {
  const std::string at = "layers." + std::to_string(layer) + ".";
  Parameter dense = make(at + "dense", {13, kToyWidth});
  dense.placement.split(Axis::tensor, 0);
  dense.gradient_placement.split(Axis::tensor, 0);
  dense.granule = 8;
  add({dense}, Summed::data);
  Parameter norm = make(at + "norm", {kToyWidth}, Role::norm);
  norm.gradient_placement.partial(Axis::tensor);
  add({norm}, Summed::stage);
  add({make(at + "bias", {kToyWidth}, Role::bias)}, Summed::data);
  Parameter router = make(at + "router", {kToyExperts, kToyWidth});
  router.gradient_placement.partial(Axis::tensor);
  router.full_precision = true;
  add({router}, Summed::stage);
  const int64_t per_rank = kToyExperts / mesh.degree(Axis::expert);
  const int64_t first = per_rank * mesh.coordinate(Axis::expert);
  std::vector<Parameter> up, down;
  for (int64_t e = first; e < first + per_rank; ++e) {
    const std::string expert = at + "experts." + std::to_string(e) + ".";
    up.push_back(expert_parameter(make(expert + "gate", {kToyFfn, kToyWidth}), 0, 8));
    up.push_back(expert_parameter(make(expert + "up", {kToyFfn, kToyWidth}), 0, 8));
    down.push_back(expert_parameter(make(expert + "down", {kToyWidth, kToyFfn}), 1, 8));
  }
  add(std::move(up), Summed::expert_data);
  add(std::move(down), Summed::expert_data);
  Parameter buffer;
  buffer.name = at + "score_bias";
  buffer.shape = {kToyExperts};
  buffer.role = Role::buffer;
  buffer.init = {Initializer::Kind::constant, 0.25};
  buffer_ = Weight(buffer);
  buffer_.parts.front().place(mesh);
}

void ExpertToyUnit::add(std::vector<Parameter> parts, Summed summed) {
  Listed& listed = weights_.emplace_back();
  listed.summed = summed;
  listed.weight.parts = std::move(parts);
  for (Parameter& part : listed.weight.parts) part.place(mesh_);
}

std::vector<Weight*> ExpertToyUnit::weights() {
  std::vector<Weight*> list;
  for (Listed& listed : weights_) list.push_back(&listed.weight);
  list.insert(list.begin() + 3, &buffer_);
  return list;
}

Tensor ExpertToyUnit::forward(Stream&, const Microbatch&, const Tensor&, Stash&) {
  for (Weight* weight : weights()) EXPECT_TRUE(weight->value.defined());
  return {};
}

Tensor ExpertToyUnit::backward_input(Stream&, const Microbatch&, const Tensor&, Stash&) { return {}; }

// Of D ranks over which a gradient is summed, all but the last add something of their own, and the last one what is missing
// to the total. Which they are is counted here without the mesh's groups.
void ExpertToyUnit::backward_weight(Stream& stream, const Microbatch&, Stash&) {
  const int microbatch = num_backward_++;
  const int64_t data = mesh_.degree(Axis::data_shard) * mesh_.degree(Axis::data_replica);
  const int64_t stage = mesh_.degree(Axis::tensor) * data;
  const int64_t of_layer = mesh_.degree(Axis::expert_tensor) * mesh_.degree(Axis::expert);
  const int64_t rank = mesh_.rank() % stage;
  for (Listed& listed : weights_) {
    int64_t num = data, own = rank / mesh_.degree(Axis::tensor);
    if (listed.summed == Summed::stage) num = stage, own = rank;
    if (listed.summed == Summed::expert_data) num = stage / of_layer, own = rank / of_layer;
    const bool add = listed.weight.accumulate_gradient();
    for (Parameter& part : listed.weight.parts) {
      std::vector<float> local(static_cast<size_t>(part.local_shape().numel()));
      part.part.for_each_run(part.shape, 0, std::ssize(local), [&](int64_t to, int64_t global, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          const auto extra = [&](int64_t r) {
            return small(part.name + "+" + std::to_string(microbatch), (global + i) * 64 + r, 2);
          };
          double value = extra(own);
          if (own + 1 == num) {
            value = toy_total(part, global + i, microbatch);
            for (int64_t r = 0; r + 1 < num; ++r) value -= extra(r);
          }
          local[static_cast<size_t>(to + i)] = static_cast<float>(value);
        }
      });
      Tensor made = Tensor::empty(stream, part.local_shape(), DType::f32);
      ops::copy_from_host(stream, local.data(), made);
      ops::accumulate(stream, made, part.gradient, add);
    }
  }
}

ExpertToyRank::ExpertToyRank(Communicator& world, const ExpertToyOptions& options, uint64_t seed)
    : pool_(1),
      stream_(allocator_, pool_),
      copy_stream_(copy_allocator_, pool_),
      world_(world),
      mesh(options.degrees, world.rank()),
      groups(
          mesh, /*ring=*/false,
          [&](const std::vector<int>& ranks, const std::string& name) { return world.split(ranks, name); },
          /*experts=*/true) {
  TRIREME_CHECK(options.stage > 0 || options.degrees.data_replica == 1);
  for (int layer = 0; layer < kToyLayers; ++layer) {
    ExpertToyUnit whole(layer, Mesh({}, 0));
    for (const Weight* weight : whole.weights()) all.insert(all.end(), weight->parts.begin(), weight->parts.end());
    const int64_t stage = layer * mesh.degree(Axis::pipeline) / kToyLayers;
    if (stage != mesh.coordinate(Axis::pipeline)) continue;
    units.push_back(std::make_unique<ExpertToyUnit>(layer, mesh));
    list.push_back(units.back().get());
    const Bucket::Options run{.compute = options.compute,
                              .gradients = options.compute,
                              .states = options.compute,
                              .stage = options.stage,
                              .with_master = options.compute == DType::f32};
    for (const std::vector<Weight*>& group : group_weights(units.back()->weights(), mesh)) {
      const Bucket::Options own = bucket_options(run, group.front()->parts.front(), mesh);
      owned.push_back(std::make_unique<Bucket>(stream_, units.back()->name(), group, own));
      Bucket& bucket = *owned.back();
      bucket.initialize(stream_, seed);
      buckets.push_back(&bucket);
      for (const BucketSegment& segment : bucket.segments()) {
        parameters.push_back(
            {const_cast<Parameter*>(segment.parameter), &bucket, mesh.group_rank(bucket.copy_axes()) == 0});
      }
    }
  }
  data = std::make_unique<DataParallel>(
      list, buckets, groups,
      DataParallel::Options{.overlap_grad_reduce = options.overlap, .overlap_param_gather = options.overlap});
  OptimizerConfig config;
  config.weight_decay = 0.1;
  config.clip_grad_norm = 10;
  optimizer = std::make_unique<Optimizer>(stream_, config, seed, buckets);
}

void ExpertToyRank::backward(int num) {
  data->begin_step(num);
  const Microbatch microbatch;
  for (int m = 0; m < num; ++m) {
    std::vector<Stash> stashes(list.size());
    for (size_t u = 0; u < list.size(); ++u) {
      data->before_forward(u, true, stream_);
      list[u]->forward(stream_, microbatch, {}, stashes[u]);
      data->after_forward(u, true, stream_);
    }
    for (size_t u = list.size(); u-- > 0;) {
      data->before_backward(u, stream_);
      list[u]->backward_input(stream_, microbatch, {}, stashes[u]);
      data->after_backward_input(u, stream_);
      data->before_backward_weight(u, stream_);
      list[u]->backward_weight(stream_, microbatch, stashes[u]);
      data->after_backward_weight(u, stream_);
    }
  }
  data->finish(stream_);
}

double ExpertToyRank::update(int64_t step) {
  Tensor squares = Tensor::empty(stream_, {1}, DType::f64);
  sum_gradient_squares(stream_, buckets, mesh, squares);
  world_.all_reduce(squares, ReduceOp::sum, stream_)->wait(stream_);
  const double sum = *squares.data<double>();
  Tensor loss = Tensor::empty(stream_, {1}, DType::f64);
  ops::fill(stream_, loss, 1);
  optimizer->update(stream_, 0.01, step, squares, loss);
  for (const auto& unit : units) ops::fill(stream_, unit->buffer().value, static_cast<float>(step));
  data->after_update(stream_);
  return sum;
}

}  // namespace trireme::testing
