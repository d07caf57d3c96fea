// Where the parameters of experts lie and what is summed over whom, with a made-up model whose gradients sum to the same
// exact numbers in every layout: whatever the expert degrees and the stage of ZeRO, everything has the bits of one rank.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <mutex>

#include "checkpoint/load.h"
#include "checkpoint/saver.h"
#include "checkpoint/state_tensors.h"
#include "core/ops/elementwise.h"
#include "launcher/global_tensors.h"
#include "tests/parallel/expert_toy.h"
#include "tests/unit/data_testing.h"

namespace trireme {
namespace {

using testing::ExpertToyOptions;
using testing::ExpertToyRank;
using testing::TempDir;

constexpr int kSteps = 2;
constexpr int kMicrobatches = 2;

// tensor, data_shard, data_replica, pipeline, expert, expert_tensor
const std::vector<Mesh::Degrees> kLayouts = {
    {.tensor = 1, .data_shard = 1},
    {.tensor = 2, .data_shard = 4, .expert = 4},
    {.tensor = 2, .data_shard = 4, .expert = 4, .expert_tensor = 2},
    {.tensor = 2, .data_shard = 2, .data_replica = 2, .expert = 2},
    {.tensor = 1, .data_shard = 2, .data_replica = 2, .expert = 4},
    {.tensor = 2, .data_shard = 2, .data_replica = 3, .expert = 2, .expert_tensor = 3},
    {.tensor = 2, .data_shard = 2, .pipeline = 2, .expert = 2},
    {.tensor = 2, .data_shard = 2},
    {.tensor = 1, .data_shard = 4, .expert = 2, .expert_tensor = 2},
    {.tensor = 1, .data_shard = 3, .data_replica = 2, .expert = 1, .expert_tensor = 3},
};

std::string text_of(const ExpertToyOptions& options) {
  return Mesh(options.degrees, 0).str() + ", replicas " + std::to_string(options.degrees.data_replica) + ", stage " +
         std::to_string(options.stage) + (options.compute == DType::bf16 ? ", bf16" : "");
}

int ranks_of(const ExpertToyOptions& options) { return static_cast<int>(Mesh(options.degrees, 0).world_size()); }

// Every layout in every stage; in stage 0 replicas are shards.
std::vector<ExpertToyOptions> all_options(DType compute) {
  std::vector<ExpertToyOptions> list;
  for (Mesh::Degrees degrees : kLayouts) {
    for (int stage = 0; stage <= 3; ++stage) {
      Mesh::Degrees own = degrees;
      if (stage == 0) {
        own.data_shard *= own.data_replica;
        own.data_replica = 1;
      }
      list.push_back({.degrees = own, .stage = stage, .compute = compute, .overlap = list.size() % 2 == 0});
    }
  }
  return list;
}

struct Course {
  std::vector<double> squares;           // of each step's gradients
  std::vector<GlobalTensors> gradients;  // likewise
  GlobalTensors states;                  // at the end, by the names of a checkpoint
};

// The state, put together from what the ranks hold.
class Collected {
 public:
  void add(ExpertToyRank& rank) {
    for (size_t i = 0; i < 3; ++i) {
      buffers_[i].add(rank.stream(), rank.parameters, kStateBuffers[i], static_cast<int>(rank.mesh.rank()));
    }
    add_values(rank);
  }

  // Checks besides that the values that units computed with are those of the state.
  GlobalTensors take() {
    GlobalTensors all;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(buffers_[i].findings(), std::vector<std::string>());
      for (auto& [name, values] : buffers_[i].take()) {
        all[state_tensor_name(kStateBuffers[i], name)] = std::move(values);
      }
    }
    for (const Seen& seen : seen_) {
      const std::vector<float>& whole = all.at(seen.parameter.name);
      seen.parameter.part.for_each_run(
          seen.parameter.shape, 0, std::ssize(seen.values), [&](int64_t local, int64_t global, int64_t n) {
            const bool same =
                std::equal(&seen.values[static_cast<size_t>(local)], &seen.values[static_cast<size_t>(local)] + n,
                           &whole[static_cast<size_t>(global)]);
            EXPECT_TRUE(same) << "a rank computes with other values of " << seen.parameter.name;
          });
    }
    return all;
  }

 private:
  struct Seen {
    Parameter parameter;
    std::vector<float> values;  // this rank's part
  };

  void add_values(ExpertToyRank& rank) {
    for (size_t u = 0; u < rank.units.size(); ++u) {
      rank.data->before_forward(u, /*with_gradients=*/false, rank.stream());
      for (const Weight* weight : rank.units[u]->weights()) {
        for (const Parameter& p : weight->parts) {
          Tensor wide = Tensor::empty(rank.stream(), p.value.shape(), DType::f32);
          p.value.dtype() == DType::f32 ? ops::copy(rank.stream(), p.value, wide)
                                        : ops::cast(rank.stream(), p.value, wide);
          const std::lock_guard lock(mutex_);
          seen_.push_back({p, std::vector<float>(wide.data<float>(), wide.data<float>() + wide.numel())});
          seen_.back().parameter.value = seen_.back().parameter.gradient = {};
        }
      }
      rank.data->after_forward(u, /*with_gradients=*/false, rank.stream());
    }
  }

  GlobalCollector buffers_[3] = {GlobalCollector("weight"), GlobalCollector("first moment"),
                                 GlobalCollector("second moment")};
  std::mutex mutex_;
  std::vector<Seen> seen_;
};

Course train(const ExpertToyOptions& options, const std::string& save_to = {}) {
  Course course;
  course.squares.resize(kSteps);
  Collected collected;
  std::vector<std::unique_ptr<GlobalCollector>> gradients;
  for (int s = 0; s < kSteps; ++s) gradients.push_back(std::make_unique<GlobalCollector>("gradient"));
  run_thread_ranks(ranks_of(options), [&](Communicator& world) {
    ExpertToyRank rank(world, options, /*seed=*/7);
    for (int s = 0; s < kSteps; ++s) {
      rank.backward(kMicrobatches);
      gradients[static_cast<size_t>(s)]->add(rank.stream(), rank.parameters, Bucket::Buffer::gradient, world.rank());
      const double squares = rank.update(s + 1);
      if (world.rank() == 0) course.squares[static_cast<size_t>(s)] = squares;
    }
    collected.add(rank);
    if (save_to.empty()) return;
    CheckpointSaver::Options saving{.run_dir = save_to};
    for (const Parameter& p : rank.all) saving.parameters.push_back(p.name);
    CheckpointSaver saver(rank.buckets, rank.mesh, world, rank.stream(), rank.copy_stream(), saving);
    saver.rehearse();
    saver.begin({.step = 1, .config_yaml = "a: 1"}, rank.stream());
    EXPECT_EQ(saver.settle(), "");
  });
  for (const auto& collector : gradients) {
    EXPECT_EQ(collector->findings(), std::vector<std::string>());
    course.gradients.push_back(collector->take());
  }
  course.states = collected.take();
  return course;
}

void expect_same(const GlobalTensors& a, const GlobalTensors& b) {
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [name, values] : b) {
    const auto found = a.find(name);
    if (found == a.end()) {
      ADD_FAILURE() << "no " << name;
    } else {
      EXPECT_EQ(found->second, values) << name;
    }
  }
}

// What the gradients sum to, by arithmetic alone.
void expect_totals(const Course& course, const std::vector<Parameter>& parameters) {
  for (int s = 0; s < kSteps; ++s) {
    double squares = 0;
    size_t num = 0;
    for (const Parameter& p : parameters) {
      const auto found = course.gradients[static_cast<size_t>(s)].find(p.name);
      if (p.is_buffer()) {
        EXPECT_EQ(found, course.gradients[static_cast<size_t>(s)].end());
        continue;
      }
      ASSERT_NE(found, course.gradients[static_cast<size_t>(s)].end()) << p.name;
      ++num;
      std::vector<float> want;
      for (int64_t i = 0; i < p.shape.numel(); ++i) {
        double sum = 0;
        for (int m = 0; m < kMicrobatches; ++m) sum += testing::toy_total(p, i, s * kMicrobatches + m);
        want.push_back(static_cast<float>(sum));
        squares += sum * sum;
      }
      EXPECT_EQ(found->second, want) << p.name;
    }
    EXPECT_EQ(course.gradients[static_cast<size_t>(s)].size(), num);
    EXPECT_EQ(course.squares[static_cast<size_t>(s)], squares);
  }
}

std::vector<Parameter> whole_model() {
  std::vector<Parameter> all;
  run_thread_ranks(1, [&](Communicator& world) { all = ExpertToyRank(world, {}, 7).all; });
  return all;
}

TEST(ExpertAxes, EveryLayoutTrainsAsOneRank) {
  const std::vector<Parameter> parameters = whole_model();
  for (const DType compute : {DType::f32, DType::bf16}) {
    const Course one = train({.degrees = {}, .compute = compute});
    for (const ExpertToyOptions& options : all_options(compute)) {
      SCOPED_TRACE(text_of(options));
      const Course course = train(options);
      expect_totals(course, parameters);
      expect_same(course.states, one.states);
      EXPECT_EQ(course.states.at("layers.1.score_bias"), std::vector<float>(testing::kToyExperts, kSteps));
      EXPECT_FALSE(course.states.contains("optimizer.first_moment.layers.1.score_bias"));
      if (HasFailure()) return;
    }
  }
}

// Loads into a model with other initial values; all must be replaced.
GlobalTensors load(const ExpertToyOptions& options, const std::string& checkpoint) {
  Collected collected;
  run_thread_ranks(ranks_of(options), [&](Communicator& world) {
    ExpertToyRank rank(world, options, /*seed=*/8);
    load_checkpoint(CheckpointReader(checkpoint), rank.stream(), rank.all, rank.buckets, StateParts::everything);
    rank.data->after_update(rank.stream());
    collected.add(rank);
    // The whole tensors on every rank.
    ModelState state(rank.stream(), rank.all, rank.parameters, world, rank.stream());
    std::vector<float> values;
    for (const Parameter& p : state.parameters()) {
      state.read(p, Bucket::Buffer::first_moment, values);
      const bool zero = std::all_of(values.begin(), values.end(), [](float x) { return x == 0; });
      EXPECT_EQ(zero, p.is_buffer()) << p.name;
    }
  });
  return collected.take();
}

TEST(ExpertAxes, ACheckpointOfOneLayoutIsLoadedInAnother) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const std::vector<ExpertToyOptions> list = all_options(compute);
    // Files are flushed to the disk: a third of the layouts with each dtype, all of them loaded by another.
    for (size_t i = compute == DType::f32 ? 1 : 2; i < list.size(); i += 3) {
      const ExpertToyOptions& to = list[(i * 7 + 11) % list.size()];
      SCOPED_TRACE(text_of(list[i]) + " -> " + text_of(to));
      const TempDir dir;
      const Course saved = train(list[i], dir / "run");
      const std::string checkpoint = dir / "run/checkpoints/step-00000001";
      ASSERT_TRUE(std::filesystem::exists(checkpoint));
      expect_same(load(to, checkpoint), saved.states);
      const CheckpointReader reader(checkpoint);
      EXPECT_EQ(reader.tensor("layers.0.router").dtype, FileDType::f32);
      EXPECT_EQ(reader.tensor("layers.0.score_bias").dtype, FileDType::f32);
      EXPECT_EQ(reader.tensor("layers.0.experts.3.up").dtype, compute == DType::f32 ? FileDType::f32 : FileDType::bf16);
      EXPECT_EQ(reader.manifest().tensors.size(), saved.states.size());
      if (HasFailure()) return;
    }
  }
}

// What no rank has in its buckets, no box tells of.
TEST(ExpertAxes, ASaveThatLacksAnExpertFails) {
  const TempDir dir;
  const ExpertToyOptions options{.degrees = {.data_shard = 2, .expert = 2}, .stage = 1};
  run_thread_ranks(2, [&](Communicator& world) {
    ExpertToyRank rank(world, options, /*seed=*/7);
    CheckpointSaver saver(rank.buckets, rank.mesh, world, rank.stream(), rank.copy_stream(),
                          {.run_dir = dir / "run", .parameters = {"layers.0.norm", "layers.0.experts.12.up"}});
    saver.rehearse();
    saver.begin({.step = 1, .config_yaml = "a: 1"}, rank.stream());
    EXPECT_NE(saver.settle().find("no rank holds layers.0.experts.12.up"), std::string::npos);
  });
  EXPECT_FALSE(std::filesystem::exists(dir / "run/checkpoints/step-00000001"));
}

}  // namespace
}  // namespace trireme
