// Random pairs of layouts A → B: what A wrote while it trained on is what A had, B has exactly that after loading, and the
// next step is the same in both; A → A continues with the same bits. On the GPUs of a machine that has them.
//
//   TRIREME_LAYOUT_SEED: other pairs
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <random>

#include "checkpoint/load.h"
#include "checkpoint/saver.h"
#include "checkpoint/state_tensors.h"
#include "core/config/load.h"
#include "launcher/layout_run.h"
#include "launcher/rank_model.h"
#include "launcher/shrink.h"
#include "parallel/resolve.h"
#include "tests/parallel/expert_draw.h"
#include "tests/parallel/layouts_draw.h"
#include "tests/run_devices.h"
#include "tests/thread_ranks.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

constexpr int kMostRanks = 16;
constexpr int64_t kStepsBefore = 2;

int num_pairs() {
  if (std::getenv("TRIREME_TEST_ALL") != nullptr) return 100;
  return run_device_name() == "cpu" ? 20 : 4;
}

struct Pair {
  Config a;
  Config b;
  int64_t host_buffer_bytes = 0;
};

// B: the model, batch and numbers of A in the layout of another draw, where that is legal.
std::optional<Config> in_layout_of(Config& a, const Config& other) {
  // A batch that divides among the data ranks of both.
  const int64_t share = a.batch.micro * *a.parallel.data;
  a.batch.global = std::lcm(share, *other.parallel.data);
  Config b = a;
  b.parallel = other.parallel;
  b.recompute = other.recompute;
  b.batch.micro = 1;
  const int ranks = num_ranks(b.parallel);
  if (ranks > most_ranks(kMostRanks) || b.parallel == a.parallel) return std::nullopt;
  try {
    for (int rank = 0; rank < ranks; ++rank) resolve(b, ranks, rank, ranks);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
  return b;
}

// Weights, gradients and moments in bf16, so that the checkpoint is.
void store_in_bf16(Pair& pair) {
  for (Config* config : {&pair.a, &pair.b}) {
    config->precision.compute = ComputeType::bf16;
    config->precision.master = MasterType::none;
    config->precision.gradients = StateType::bf16;
    config->precision.optimizer_states = StateType::bf16;
  }
}

// `count` pairs of these.
void add_pairs(const std::vector<Config>& configs, int64_t count, std::mt19937_64& random, std::vector<Pair>& found) {
  for (Config a : configs) {
    if (num_ranks(a.parallel) > most_ranks(kMostRanks) || count == 0) continue;
    for (int attempt = 0; attempt < 200; ++attempt) {
      if (const auto b = in_layout_of(a, configs[random() % configs.size()])) {
        found.push_back({a, *b, int64_t{1} << (12 + random() % 12)});
        if (std::ssize(found) % 3 == 0) store_in_bf16(found.back());
        --count;
        break;
      }
    }
  }
}

const std::vector<Pair>& pairs() {
  static const std::vector<Pair> list = [] {
    const uint64_t seed = layouts::seed_of_draws(7);
    std::mt19937_64 random(seed);
    const std::string file = std::string(TRIREME_SOURCE_DIR) + "/tests/parallel/layouts.yaml";
    const auto add = [&](std::vector<Config>& configs, const std::vector<std::string>& sets) {
      configs.push_back(load_config(file, sets));
      configs.back().run.device = DeviceChoice::automatic;
    };
    std::vector<Config> dense, experts;
    for (const layouts::Draw& draw : layouts::draw_layouts(seed, 6 * num_pairs())) add(dense, draw.sets);
    // With experts that a bias keeps even: in another layout microbatches are others, and their balance losses, too.
    for (int i = 0; i < 2 * num_pairs(); ++i) {
      add(experts, layouts::draw_expert_layout(seed, 10 * i + layouts::kDrawsOfBias).sets);
    }
    std::vector<Pair> found;
    add_pairs(dense, num_pairs() - num_pairs() / 4, random, found);
    add_pairs(experts, num_pairs() / 4, random, found);
    return found;
  }();
  return list;
}

// Weights and optimizer states, put together from what the ranks hold, by the names of a checkpoint.
struct Gathered {
  GlobalCollector buffers[3] = {GlobalCollector("weight"), GlobalCollector("first moment"),
                                GlobalCollector("second moment")};

  void add(RankContext& rank, const RankModel& model) {
    for (size_t i = 0; i < 3; ++i)
      buffers[i].add(rank.stream(), model.model.parameters(), kStateBuffers[i], rank.rank());
  }
  GlobalTensors take() {
    GlobalTensors all;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(buffers[i].findings(), std::vector<std::string>());
      for (auto& [name, values] : buffers[i].take()) all[state_tensor_name(kStateBuffers[i], name)] = std::move(values);
    }
    return all;
  }
};

// The last step of a run, and the states around it.
struct Course {
  GlobalTensors before, after;
  LayoutResult step;
};

struct Collected {
  Gathered before, after;
  GlobalCollector initial{"weight"}, gradients{"gradient"}, weights{"weight"};
  StepNumbers numbers;

  Course take() {
    Course course;
    course.before = before.take();
    course.after = after.take();
    course.step.loss = {numbers.loss};
    course.step.grad_norm = {numbers.grad_norm};
    course.step.initial = initial.take();
    course.step.gradients = gradients.take();
    course.step.weights = weights.take();
    return course;
  }
};

void train_last_step(RankContext& rank, RankModel& model, const Config& config, const LayoutInput& input,
                     CheckpointSaver* saver, Collected& collected) {
  const auto& parameters = model.model.parameters();
  collected.initial.add(rank.stream(), parameters, Bucket::Buffer::master, rank.rank());
  model.step.forward_backward(microbatches_of(input, kStepsBefore, config.batch.micro, rank.mesh()));
  collected.gradients.add(rank.stream(), parameters, Bucket::Buffer::gradient, rank.rank());
  if (saver != nullptr) saver->wait_copied(rank.stream());
  model.step.update(config.optimizer.lr, kStepsBefore + 1);
  const StepNumbers numbers = model.step.take_numbers();
  if (rank.is_main()) collected.numbers = numbers;
  collected.weights.add(rank.stream(), parameters, Bucket::Buffer::master, rank.rank());
}

// Some steps from nothing; a save while the last one runs.
Course train_and_save(const Config& config, const LayoutInput& input, const std::string& dir, int64_t host_buffer) {
  Collected collected;
  run_rank_contexts(config, num_ranks(config.parallel), [&](RankContext& rank) {
    RankModel model(rank, config);
    initialize_without_constants(rank.stream(), model.model, 3);
    for (int64_t s = 0; s < kStepsBefore; ++s) {
      model.step.forward_backward(microbatches_of(input, s, config.batch.micro, rank.mesh()));
      model.step.update(config.optimizer.lr, s + 1);
      model.step.take_numbers();
    }
    collected.before.add(rank, model);
    CheckpointSaver saver(model.model.buckets(), rank.mesh(), rank.world(), rank.host_stream(), rank.copy_stream(),
                          {.run_dir = dir, .host_buffer_bytes = host_buffer});
    saver.rehearse();
    saver.begin({.step = kStepsBefore, .config_yaml = dump_config(config)}, rank.stream());
    train_last_step(rank, model, config, input, &saver, collected);
    EXPECT_EQ(saver.settle(), "");
    collected.after.add(rank, model);
  });
  return collected.take();
}

Course load_and_train(const Config& config, const LayoutInput& input, const std::string& checkpoint) {
  Collected collected;
  run_rank_contexts(config, num_ranks(config.parallel), [&](RankContext& rank) {
    RankModel model(rank, config);
    model.model.initialize(rank.stream(), 99);
    load_checkpoint(CheckpointReader(checkpoint), rank.stream(), model.state.parameters(), model.model.buckets(),
                    StateParts::everything);
    model.step.weights_changed();
    collected.before.add(rank, model);
    train_last_step(rank, model, config, input, nullptr, collected);
    collected.after.add(rank, model);
  });
  return collected.take();
}

GlobalTensors contents(const std::string& checkpoint) {
  const CheckpointReader reader(checkpoint);
  GlobalTensors all;
  for (const StoredTensor& tensor : reader.manifest().tensors) {
    std::vector<float>& values = all[tensor.name];
    values.resize(static_cast<size_t>(tensor.shape.numel()));
    reader.read(tensor, Box::whole(tensor.shape), values);
  }
  return all;
}

// Names of tensors whose bits differ.
std::vector<std::string> different(const GlobalTensors& a, const GlobalTensors& b) {
  std::vector<std::string> names;
  for (const auto& [name, values] : a) {
    const auto other = b.find(name);
    const bool same = other != b.end() && other->second.size() == values.size() &&
                      std::memcmp(other->second.data(), values.data(), values.size() * sizeof(float)) == 0;
    if (!same) names.push_back(name);
  }
  for (const auto& [name, values] : b) {
    if (!a.contains(name)) names.push_back(name);
  }
  return names;
}

class CheckpointPairs : public ::testing::TestWithParam<int> {};

TEST_P(CheckpointPairs, LoadWhatWasSavedAndGoOn) {
  const Pair& pair = pairs()[static_cast<size_t>(GetParam())];
  const std::vector<std::string> none;
  testing::TempDir dir;
  const LayoutInput input = make_layout_input(pair.a, kStepsBefore + 1, 11);
  const Course a = train_and_save(pair.a, input, dir.path(), pair.host_buffer_bytes);
  const std::string checkpoint = dir / "checkpoints/step-00000002";
  EXPECT_EQ(different(contents(checkpoint), a.before), none) << "the file is not what A had";

  const Course again = load_and_train(pair.a, input, checkpoint);
  EXPECT_EQ(different(again.before, a.before), none) << "A loaded something else";
  EXPECT_EQ(different(again.after, a.after), none) << "A goes on with other bits";
  EXPECT_EQ(again.step.loss, a.step.loss);

  const Course b = load_and_train(pair.b, input, checkpoint);
  EXPECT_EQ(different(b.before, a.before), none) << "B loaded something else";
  const LayoutComparison next = compare(b.step, a.step, pair.a);
  if (pair.a.precision.compute == ComputeType::fp32) {
    EXPECT_LE(next.loss, 1e-6);
    EXPECT_LE(next.worst_gradient(), 1e-5) << next.gradients.front().name;
    EXPECT_LE(next.worst_weight(), 1e-5) << next.weights.front().name;
  } else {
    EXPECT_LE(next.loss, 1e-2);
  }
  if (HasFailure()) {
    std::printf("A: %s\nB: %s\n", dump_config(pair.a).c_str(), dump_config(pair.b).c_str());
  }
}

bool has_tied_ends(const Config& config) { return config.model.tie_embeddings && config.parallel.pipeline > 1; }

// The pairs in which A holds the tied table at both ends of its pipeline are named so: faults of it are tried on them.
INSTANTIATE_TEST_SUITE_P(Drawn, CheckpointPairs, ::testing::Range(0, static_cast<int>(pairs().size())),
                         [](const ::testing::TestParamInfo<int>& index) {
                           const Pair& pair = pairs()[static_cast<size_t>(index.param)];
                           return std::to_string(index.param) + (has_tied_ends(pair.a) ? "_tied_ends" : "");
                         });

TEST(CheckpointPairsCover, EveryZeroStageOnBothSidesBothPrecisionsAndAllAxes) {
  if (run_device_name() != "cpu") GTEST_SKIP() << "few pairs on GPUs";
  ASSERT_EQ(std::ssize(pairs()), num_pairs());
  const auto some = [](auto&& predicate) {
    return std::any_of(pairs().begin(), pairs().end(), [&](const Pair& p) { return predicate(p); });
  };
  for (int stage = 0; stage < 4; ++stage) {
    EXPECT_TRUE(some([&](const Pair& p) { return p.a.parallel.zero == stage; })) << stage;
    EXPECT_TRUE(some([&](const Pair& p) { return p.b.parallel.zero == stage; })) << stage;
  }
  EXPECT_TRUE(some([](const Pair& p) { return p.a.precision.compute == ComputeType::fp32; }));
  EXPECT_TRUE(some([](const Pair& p) { return p.a.precision.compute == ComputeType::bf16; }));
  EXPECT_TRUE(some([](const Pair& p) { return p.a.precision.master == MasterType::none && p.a.parallel.zero > 0; }));
  for (const auto degree : {&ParallelConfig::tensor, &ParallelConfig::pipeline, &ParallelConfig::expert}) {
    EXPECT_TRUE(some([&](const Pair& p) { return p.a.parallel.*degree > p.b.parallel.*degree; }));
    EXPECT_TRUE(some([&](const Pair& p) { return p.a.parallel.*degree < p.b.parallel.*degree; }));
  }
  EXPECT_TRUE(some([](const Pair& p) { return num_ranks(p.a.parallel) > num_ranks(p.b.parallel); }));
  EXPECT_TRUE(some([](const Pair& p) { return num_ranks(p.a.parallel) < num_ranks(p.b.parallel); }));
  EXPECT_TRUE(some([](const Pair& p) { return has_tied_ends(p.a); }));
  EXPECT_TRUE(some([](const Pair& p) { return has_tied_ends(p.b); }));
}

}  // namespace
}  // namespace trireme
