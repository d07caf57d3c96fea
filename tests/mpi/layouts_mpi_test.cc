// Under mpirun: the named layouts of as many ranks as there are processes, over the processes' own communicators. Rank 0
// trains one rank by itself and compares loss, gradient norm, every gradient and every weight after two steps.
//
//   --one-rank-per-node   as if each process had a machine of its own: MPI messages instead of shared memory
#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "core/random/philox.h"
#include "launcher/layout_run.h"
#include "launcher/rank_context.h"
#include "launcher/rank_model.h"
#include "launcher/shrink.h"
#include "parallel/resolve.h"
#include "tests/parallel/named_layouts.h"

namespace trireme {
namespace {

constexpr int64_t kSteps = 2;
constexpr double kTolerance = 1e-5;

MpiOptions& options() {
  static MpiOptions value;
  return value;
}

void perturb(RankContext& rank, Transformer& model) {
  for (const ParameterRef& ref : model.parameters()) {
    if (ref.parameter->decays()) continue;
    std::vector<float> values(static_cast<size_t>(ref.parameter->shape.numel()));
    const uint64_t key = random_key(17, ref.parameter->name);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(ref.parameter->init.value + 0.03 * normal_at(key, i));
    }
    ref.bucket->write(rank.stream(), *ref.parameter, Bucket::Buffer::master, values.data());
  }
}

// Every parameter of the model, on every rank, from what all of them hold. Elements that several ranks hold must have the
// same bits there.
GlobalTensors collect(RankContext& rank, const Config& config, const Transformer& model, Bucket::Buffer kind) {
  constexpr float kAbsent = -std::numeric_limits<float>::infinity();
  Stream& host = rank.host_stream();
  std::map<std::string, ParameterRef> held;
  for (const ParameterRef& ref : model.parameters()) held[ref.parameter->name] = ref;
  GlobalTensors all;
  for (const Parameter& parameter : model_parameters(config.model)) {
    if (!Bucket::belongs(parameter, kind)) continue;
    std::vector<float> values(static_cast<size_t>(parameter.shape.numel()), kAbsent);
    if (const auto found = held.find(parameter.name); found != held.end()) {
      found->second.bucket->read(rank.stream(), *found->second.parameter, kind, values.data());
    }
    std::vector<float> least(values);
    for (float& x : least) x = x == kAbsent ? -kAbsent : x;
    const Shape shape{std::ssize(values)};
    rank.world().all_reduce(Tensor::borrow(values.data(), shape, DType::f32), ReduceOp::max, host)->wait(host);
    rank.world().all_reduce(Tensor::borrow(least.data(), shape, DType::f32), ReduceOp::min, host)->wait(host);
    EXPECT_EQ(values, least) << parameter.name << ": replicas differ, or no rank has some of the elements";
    all[parameter.name] = std::move(values);
  }
  return all;
}

LayoutResult train(RankContext& rank, const Config& config, const LayoutInput& input) {
  RankModel rank_model(rank, config);
  Transformer& model = rank_model.model;
  model.initialize(rank.stream(), static_cast<uint64_t>(config.run.seed));
  perturb(rank, model);
  LayoutResult result;
  result.initial = collect(rank, config, model, Bucket::Buffer::master);
  for (int64_t s = 0; s < input.steps; ++s) {
    rank_model.step.forward_backward(microbatches_of(input, s, config.batch.micro, rank.mesh()));
    if (s == 0) result.gradients = collect(rank, config, model, Bucket::Buffer::gradient);
    rank_model.step.update(config.optimizer.lr, s + 1);
    const StepNumbers numbers = rank_model.step.take_numbers();
    result.loss.push_back(numbers.loss);
    result.grad_norm.push_back(numbers.grad_norm);
  }
  result.weights = collect(rank, config, model, Bucket::Buffer::master);
  return result;
}

LayoutResult train_alone(const Config& config, const LayoutInput& input) {
  FlightRecorder recorder(0);
  const auto world = make_self_communicator("world", recorder);
  RankContext rank(config, *world, LocalPlace{});
  return train(rank, config, input);
}

void run(MpiRuntime& mpi, const layouts::NamedLayout& layout) {
  const Config config = layouts::named_config(layout, {"run.device=cpu", "parallel.backend=mpi"});
  const LayoutInput input = make_layout_input(config, kSteps, 5);
  LayoutResult result;
  const int code = run_rank(config, &mpi, [&](RankContext& rank) {
    EXPECT_EQ(rank.world_size(), layout.ranks);
    EXPECT_EQ(rank.groups().world().backend(), "mpi");
    result = train(rank, config, input);
    return 0;
  });
  ASSERT_EQ(code, 0);
  if (mpi.rank() != 0) return;
  const LayoutComparison c = compare(result, train_alone(one_rank(config), input), config);
  EXPECT_TRUE(c.within(kTolerance)) << "loss " << c.loss << ", norm " << c.grad_norm << ", gradient "
                                    << c.worst_gradient() << " of " << c.gradients.front().name << ", weight "
                                    << c.worst_weight() << " of " << c.weights.front().name << ", " << c.unmoved.size()
                                    << " unmoved";
}

// One runtime for the process: all in one test.
TEST(LayoutsMpi, TrainAsOneRankDoes) {
  MpiRuntime mpi(options());
  int count = 0;
  for (const layouts::NamedLayout& layout : layouts::named_layouts()) {
    if (layout.ranks != mpi.size()) continue;
    SCOPED_TRACE(layout.name);
    run(mpi, layout);
    ++count;
  }
  EXPECT_GE(count, 4) << "layouts of " << mpi.size() << " ranks";
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    trireme::options().one_rank_per_node |= std::string(argv[i]) == "--one-rank-per-node";
  }
  return RUN_ALL_TESTS();
}
