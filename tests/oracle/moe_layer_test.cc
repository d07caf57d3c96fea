// Layers with experts against golden/moe_layer: outputs, all gradients, choices, loads, balance losses.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/device/allocator.h"
#include "core/device/device.h"
#include "core/device/thread_pool.h"
#include "core/ops/elementwise.h"
#include "core/ops/router.h"
#include "models/moe/chooser.h"
#include "models/moe/moe_mlp.h"
#include "tests/oracle/moe_golden.h"

namespace trireme::golden {
namespace {

// One layer with memory of its own, as the model's buckets would give it.
class Layer {
 public:
  Layer(const MoeGolden& golden, const MoeGolden& inputs, int64_t dispatch_chunks)
      : golden_(golden),
        inputs_(inputs),
        model_(model_of(golden)),
        stats_(stream(), model_),
        setup_(setup(dispatch_chunks)),
        mlp_(model_, ParameterNames(model_.family, 0), 0, setup_) {
    mlp_.list_weights(weights_);
    for (Weight* weight : weights_) {
      weight->value = tensor(DType::f32, weight->shape(), values_of(*weight));
      if (weight->parts[0].is_buffer()) continue;
      weight->gradient =
          tensor(DType::f32, weight->shape(), std::vector<double>(static_cast<size_t>(weight->numel()), std::nan("")));
    }
  }

  Stream& stream() { return stream_; }
  MoeStats& stats() { return stats_; }
  const ModelConfig& model() const { return model_; }

  // All microbatches of a step; compares y and dx of each.
  void run() {
    for (int64_t m = 0; m < kMicrobatches; ++m) {
      Microbatch microbatch = this->microbatch(m);
      const Tensor x = tensor(DType::f32, {kTokens, kHidden}, inputs_.read<double>("0.x", m));
      const Tensor dy = tensor(DType::f32, {kTokens, kHidden}, inputs_.read<double>("0.dy", m));
      Stash stash;
      const std::string number = " of microbatch " + std::to_string(m);
      expect_near(read(mlp_.forward(stream(), microbatch, x, /*residual=*/{}, stash)), golden_.read<double>("0.y", m),
                  "y" + number);
      expect_near(read(mlp_.backward_input(stream(), microbatch, dy, stash)), golden_.read<double>("0.dx", m),
                  "dx" + number);
      mlp_.backward_weight(stream(), microbatch, x, stash);
    }
  }

  // Loads of a step, without gradients of anything.
  std::vector<int64_t> loads_of_step(const std::vector<double>& x, const std::vector<double>& bias) {
    stats_.clear(stream());
    for (Weight* weight : weights_) {
      if (weight->parts[0].is_buffer()) weight->value = tensor(DType::f32, weight->shape(), bias);
    }
    const auto size = static_cast<int64_t>(x.size()) / kMicrobatches;
    for (int64_t m = 0; m < kMicrobatches; ++m) {
      Stash stash;
      const std::vector<double> rows(x.begin() + m * size, x.begin() + (m + 1) * size);
      mlp_.forward(stream(), microbatch(m), tensor(DType::f32, {kTokens, kHidden}, rows), /*residual=*/{}, stash);
    }
    return read_counts();
  }

  std::vector<int64_t> read_counts() {
    std::vector<int64_t> counts(static_cast<size_t>(stats_.counts().numel()));
    ops::copy_to_host(stream(), stats_.counts(), counts.data());
    stream().synchronize();
    return counts;
  }
  Tensor bias() {
    for (Weight* weight : weights_) {
      if (weight->parts[0].is_buffer()) return weight->value;
    }
    return {};
  }

  void expect_gradients() {
    std::map<std::string, std::vector<double>> expected;  // by parameter
    const ParameterNames names(model_.family, 0);
    expected[names.router + ".weight"] = golden_.read<double>("0.grad.router");
    for (int64_t e = 0; e < kExperts; ++e) {
      expected[names.expert(e).gate + ".weight"] = golden_.read<double>("0.grad.gate", e);
      expected[names.expert(e).up + ".weight"] = golden_.read<double>("0.grad.up", e);
      expected[names.expert(e).down + ".weight"] = golden_.read<double>("0.grad.down", e);
    }
    size_t num_compared = 0;
    for (Weight* weight : weights_) {
      if (weight->parts[0].is_buffer()) continue;
      std::vector<double> want;
      for (const Parameter& part : weight->parts) {
        const std::vector<double>& values = expected.at(part.name);
        want.insert(want.end(), values.begin(), values.end());
        ++num_compared;
      }
      expect_near(read(weight->gradient), want, "gradient of " + weight->parts[0].name);
    }
    EXPECT_EQ(num_compared, expected.size());
  }

  void expect_stats() {
    stats_.store_dropped(stream());
    std::vector<int64_t> want(kExperts + 1, 0);
    double balance_loss = 0, entropy = 0;
    for (int64_t m = 0; m < kMicrobatches; ++m) {
      const std::vector<int64_t> counts = golden_.read<int64_t>("0.counts", m);
      for (size_t e = 0; e < counts.size(); ++e) want[e] += counts[e];
      want.back() += golden_.read<int64_t>("0.dropped")[static_cast<size_t>(m)];
      balance_loss += golden_.read<double>("0.balance_loss")[static_cast<size_t>(m)];
      entropy += golden_.read<double>("0.entropy")[static_cast<size_t>(m)];
    }
    EXPECT_EQ(read_counts(), want);
    const std::vector<double> sums = read(stats_.sums());
    EXPECT_NEAR(sums[MoeStats::kBalanceLoss], balance_loss, kBound * balance_loss);
    EXPECT_NEAR(sums[MoeStats::kEntropy], entropy, kBound * entropy);
    if (golden_.number("z_loss_coef") > 0) {
      double z_loss = 0;
      for (const double loss : golden_.read<double>("0.z_loss")) z_loss += loss;
      const double scale = golden_.number("z_loss_coef") / static_cast<double>(kTokens * kMicrobatches);
      EXPECT_NEAR(scale * sums[MoeStats::kSquaredLogSum], z_loss, kBound * z_loss);
    }
  }

  Tensor tensor(DType dtype, const Shape& shape, const std::vector<double>& values) {
    Tensor made = Tensor::empty(stream(), shape, dtype);
    TRIREME_CHECK(dtype == DType::f32 && made.numel() == static_cast<int64_t>(values.size()));
    const std::vector<float> narrow(values.begin(), values.end());
    ops::copy_from_host(stream(), narrow.data(), made);
    return made;
  }
  std::vector<double> read(const Tensor& x) {
    std::vector<double> values(static_cast<size_t>(x.numel()));
    if (x.dtype() == DType::f64) {
      ops::copy_to_host(stream(), x, values.data());
      stream().synchronize();
      return values;
    }
    TRIREME_CHECK(x.dtype() == DType::f32);
    std::vector<float> narrow(values.size());
    ops::copy_to_host(stream(), x, narrow.data());
    stream().synchronize();
    return {narrow.begin(), narrow.end()};
  }

 private:
  MoeSetup setup(int64_t dispatch_chunks) {
    MoeSetup made{.config = moe_of(golden_), .stats = &stats_};
    made.config.dispatch_chunks = dispatch_chunks;
    return made;
  }

  Microbatch microbatch(int64_t m) {
    Microbatch made;
    made.batch = kBatch;
    made.sequence = kSequence;
    made.tokens = ids(m);
    made.share = 1.0 / kMicrobatches;
    made.num_so_far = m + 1;
    return made;
  }

  // Of a hash layer: ids whose experts are those of the golden file.
  Tensor ids(int64_t m) {
    std::vector<int32_t> ids(kTokens, 0);
    if (golden_.setting("router") == "hash") {
      const std::vector<int64_t> wanted = inputs_.read<int64_t>("hash.experts", m);
      if (id_of_.empty()) read_hash_table();
      for (size_t t = 0; t < ids.size(); ++t) ids[t] = id_of_.at({wanted[2 * t], wanted[2 * t + 1]});
    }
    Tensor made = Tensor::empty(stream(), {kTokens}, DType::i32);
    ops::copy_from_host(stream(), ids.data(), made);
    return made;
  }

  void read_hash_table() {
    std::vector<int32_t> all(static_cast<size_t>(model_.vocab_size));
    for (size_t id = 0; id < all.size(); ++id) all[id] = static_cast<int32_t>(id);
    Microbatch every;
    every.batch = 1;
    every.sequence = model_.vocab_size;
    every.tokens = Tensor::empty(stream(), {model_.vocab_size}, DType::i32);
    ops::copy_from_host(stream(), all.data(), every.tokens);
    const TensorGroup alone;
    const Tensor scores = Tensor::empty(stream(), {model_.vocab_size, kExperts}, DType::f32);
    const Tensor none;
    const Tensor chosen = make_hash_chooser(model_.experts, model_.vocab_size, 0)
                              ->choose(stream(), {every, alone, scores, scores, none})
                              .experts;
    std::vector<int32_t> table(static_cast<size_t>(chosen.numel()));
    ops::copy_to_host(stream(), chosen, table.data());
    stream().synchronize();
    for (size_t id = 0; id < all.size(); ++id) id_of_[{table[2 * id], table[2 * id + 1]}] = all[id];
  }

  std::vector<double> values_of(const Weight& weight) const {
    const ParameterNames names(model_.family, 0);
    std::vector<double> values;
    const auto append = [&](const std::vector<double>& more) { values.insert(values.end(), more.begin(), more.end()); };
    for (const Parameter& part : weight.parts) {
      if (part.name == names.router + ".weight") {
        append(inputs_.read<double>("0.router"));
        values.resize(kExperts * kHidden);
      }
      if (part.is_buffer()) append(inputs_.read<double>("0.bias"));
      for (int64_t e = 0; e < kExperts; ++e) {
        if (part.name == names.expert(e).gate + ".weight") append(inputs_.read<double>("0.gate", e));
        if (part.name == names.expert(e).up + ".weight") append(inputs_.read<double>("0.up", e));
        if (part.name == names.expert(e).down + ".weight") append(inputs_.read<double>("0.down", e));
      }
    }
    return values;
  }

  CpuAllocator allocator_;
  ThreadPool pool_{2};
  CpuStream stream_{allocator_, pool_};
  const MoeGolden& golden_;
  const MoeGolden& inputs_;
  ModelConfig model_;
  MoeStats stats_;
  MoeSetup setup_;
  MoeMlp mlp_;
  std::vector<Weight*> weights_;
  std::map<std::pair<int64_t, int64_t>, int32_t> id_of_;  // by experts
};

class MoeLayer : public ::testing::TestWithParam<const char*> {};

TEST_P(MoeLayer, IsThatOfTheFormulas) {
  const MoeGolden golden(GetParam());
  const MoeGolden inputs("inputs");
  for (const int64_t dispatch_chunks : {1, 3}) {
    Layer layer(golden, inputs, dispatch_chunks);
    layer.run();
    layer.expect_gradients();
    layer.expect_stats();
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, MoeLayer,
                         ::testing::Values("plain", "aux_sequence", "aux_microbatch", "aux_global", "z_loss",
                                           "sigmoid_groups", "softmax_groups", "drop_probability", "drop_position",
                                           "switch", "expert_choice", "base", "hash"),
                         [](const auto& test) { return std::string(test.param); });

// The biases of DeepSeek-V3 over five steps, by the loads of several microbatches.
TEST(MoeLayerBias, FollowsTheLoads) {
  const MoeGolden golden("bias_update");
  const MoeGolden inputs("inputs");
  Layer layer(golden, inputs, /*dispatch_chunks=*/1);
  std::vector<double> bias(kExperts, 0.0);
  Tensor finite = Tensor::empty(layer.stream(), {1}, DType::i32);
  ops::fill(layer.stream(), finite, 0);
  for (int64_t step = 0; step < 5; ++step) {
    std::vector<int64_t> loads = layer.loads_of_step(inputs.read<double>("steps.x", step), bias);
    loads.pop_back();
    EXPECT_EQ(loads, golden.read<int64_t>("counts", step)) << "step " << step;
    Tensor value = layer.bias();
    const Tensor counts = layer.stats().counts_of(0).view({kExperts});
    ops::update_balance_bias(layer.stream(), counts, static_cast<float>(golden.number("bias_update_rate")), finite,
                             value);
    bias = layer.read(value);
    const std::vector<double> want = golden.read<double>("bias", step);
    for (size_t e = 0; e < bias.size(); ++e) EXPECT_NEAR(bias[e], want[e], 1e-7) << "step " << step << " expert " << e;
  }
}

}  // namespace
}  // namespace trireme::golden
