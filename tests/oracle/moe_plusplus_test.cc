// Layers of MoE++: two of them, with gating residuals, against golden/moe_layer; and what defines each of their experts.
#include <gtest/gtest.h>

#include <cmath>

#include "core/device/allocator.h"
#include "core/device/device.h"
#include "core/device/thread_pool.h"
#include "core/ops/elementwise.h"
#include "models/moe/moe_mlp.h"
#include "tests/oracle/moe_golden.h"

namespace trireme::golden {
namespace {

using Values = std::vector<double>;

// Layers with memory of their own, as the model's buckets would give it.
class Layers {
 public:
  // The value of each parameter, by its layer and name.
  using ValuesOf = std::function<Values(int64_t layer, const Parameter&)>;

  Layers(const ModelConfig& model, const MoeConfig& moe, const ValuesOf& values_of) : stats_(stream(), model) {
    const MoeSetup setup{.config = moe, .stats = &stats_};
    for (int64_t layer = 0; layer < model.num_layers; ++layer) {
      layers_.push_back(std::make_unique<MoeMlp>(model, ParameterNames(model.family, layer), layer, setup, layer > 0));
      layers_.back()->list_weights(weights_.emplace_back());
      for (Weight* weight : weights_.back()) {
        Values values;
        for (const Parameter& part : weight->parts) {
          const Values more = values_of(layer, part);
          values.insert(values.end(), more.begin(), more.end());
        }
        weight->value = tensor(weight->shape(), values);
        weight->gradient = tensor(weight->shape(), Values(values.size(), std::nan("")));
      }
    }
  }

  Stream& stream() { return stream_; }
  MoeMlp& operator[](int64_t layer) { return *layers_[static_cast<size_t>(layer)]; }
  const std::vector<Weight*>& weights(int64_t layer) const { return weights_[static_cast<size_t>(layer)]; }

  Tensor tensor(const Shape& shape, const Values& values) {
    TRIREME_CHECK(shape.numel() == std::ssize(values));
    Tensor made = Tensor::empty(stream(), shape, DType::f32);
    const std::vector<float> narrow(values.begin(), values.end());
    ops::copy_from_host(stream(), narrow.data(), made);
    return made;
  }
  Values read(const Tensor& x) {
    std::vector<float> values(static_cast<size_t>(x.numel()));
    ops::copy_to_host(stream(), x, values.data());
    stream().synchronize();
    return {values.begin(), values.end()};
  }

 private:
  CpuAllocator allocator_;
  ThreadPool pool_{2};
  CpuStream stream_{allocator_, pool_};
  MoeStats stats_;
  std::vector<std::unique_ptr<MoeMlp>> layers_;
  std::vector<std::vector<Weight*>> weights_;
};

constexpr int64_t kConstant = 2, kChoices = 12;  // 8 real experts, 1 zero, 1 copy and 2 constant ones

class MoePlusPlus : public ::testing::TestWithParam<const char*> {
 protected:
  // A parameter, or its gradient with "grad.", as the files have it.
  static Values parameter(const MoeGolden& file, int64_t layer, const std::string& kind, const std::string& name) {
    const ParameterNames names(ModelFamily::qwen3_moe, layer);
    const std::string at = std::to_string(layer) + "." + kind;
    if (name == names.router + ".weight") {
      Values all = file.read<double>(at + "router");
      all.resize(kChoices * kHidden);
      return all;
    }
    if (name == names.gate_residual + ".weight") return file.read<double>(at + "residual");
    for (int64_t e = 0; e < kExperts; ++e) {
      if (name == names.expert(e).gate + ".weight") return file.read<double>(at + "gate", e);
      if (name == names.expert(e).up + ".weight") return file.read<double>(at + "up", e);
      if (name == names.expert(e).down + ".weight") return file.read<double>(at + "down", e);
    }
    for (int64_t j = 0; j < kConstant; ++j) {
      if (name == names.constant_expert(j).vector) return file.read<double>(at + "constant_value", j);
      if (name == names.constant_expert(j).mix + ".weight") return file.read<double>(at + "constant_router", j);
    }
    ADD_FAILURE() << "what is " << name;
    return {};
  }
};

TEST_P(MoePlusPlus, TwoLayersAreThoseOfTheFormulas) {
  const MoeGolden golden(GetParam());
  const MoeGolden inputs("inputs");
  ModelConfig model = model_of(golden);
  model.num_layers = 2;
  model.experts.num_zero = 1;
  model.experts.num_copy = 1;
  model.experts.num_constant = kConstant;
  model.experts.gating_residual = true;
  MoeConfig moe = moe_of(golden);
  moe.constant_share = golden.number("constant_share");
  Layers layers(model, moe, [&](int64_t layer, const Parameter& p) { return parameter(inputs, layer, "", p.name); });

  for (int64_t m = 0; m < kMicrobatches; ++m) {
    Microbatch microbatch;
    microbatch.batch = kBatch;
    microbatch.sequence = kSequence;
    microbatch.share = 1.0 / kMicrobatches;
    microbatch.num_so_far = m + 1;
    const std::string where = " of microbatch " + std::to_string(m) + ", layer ";
    const auto input = [&](int64_t layer, const char* name) {
      return layers.tensor({kTokens, kHidden}, inputs.read<double>(std::to_string(layer) + name, m));
    };
    Stash stashes[2];
    Tensor logits[2];
    for (int64_t layer = 0; layer < 2; ++layer) {
      const Tensor y = layers[layer].forward(layers.stream(), microbatch, input(layer, ".x"), /*residual=*/{},
                                             layer > 0 ? logits[0] : Tensor{}, logits[layer], stashes[layer]);
      const std::string at = std::to_string(layer);
      expect_near(layers.read(y), golden.read<double>(at + ".y", m), "y" + where + at);
      expect_near(layers.read(logits[layer]), golden.read<double>(at + ".logits", m), "logits" + where + at);
    }
    Tensor dlogits;
    for (int64_t layer = 1; layer >= 0; --layer) {
      Tensor dbefore;
      const Tensor dx = layers[layer].backward_input(layers.stream(), microbatch, input(layer, ".dy"), dlogits, dbefore,
                                                     stashes[layer]);
      const std::string at = std::to_string(layer);
      expect_near(layers.read(dx), golden.read<double>(at + ".dx", m), "dx" + where + at);
      layers[layer].backward_weight(layers.stream(), microbatch, input(layer, ".x"), stashes[layer]);
      dlogits = dbefore;
    }
  }
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (const Weight* weight : layers.weights(layer)) {
      Values want;
      for (const Parameter& part : weight->parts) {
        const Values more = parameter(golden, layer, "grad.", part.name);
        want.insert(want.end(), more.begin(), more.end());
      }
      expect_near(layers.read(weight->gradient), want, "gradient of " + weight->parts.front().name);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, MoePlusPlus, ::testing::Values("plus_plus", "plus_plus_capacity"),
                         [](const auto& test) { return std::string(test.param); });

// A token's logit of choice e is its element e: so it says itself which experts it gets, of two each.
TEST(MoePlusPlusExperts, DoWhatDefinesThem) {
  constexpr int64_t kColumns = 6;
  constexpr int64_t kZero = 2, kOtherZero = 3, kCopy = 4, kConst = 5;  // behind the real ones, 0 and 1
  ModelConfig model;
  model.family = ModelFamily::qwen3_moe;
  model.hidden_size = kColumns;
  model.num_layers = 1;
  model.experts = {.num_experts = 2, .top_k = 2, .ffn_size = 8};
  model.experts.num_zero = 2;
  model.experts.num_copy = 1;
  model.experts.num_constant = 1;
  const Values vector = {1, -2, 3, -4, 5, -6};
  const ParameterNames names(model.family, 0);
  Layers layers(model, {.balance = MoeBalance::none}, [&](int64_t, const Parameter& p) {
    Values values(static_cast<size_t>(p.shape.numel()), 1e9);  // a real expert would show
    if (p.name == names.constant_expert(0).vector) return vector;
    if (p.name == names.router + ".weight" || p.name == names.constant_expert(0).mix + ".weight") {
      std::fill(values.begin(), values.end(), 0);
      for (size_t i = 0; i < values.size(); i += kColumns + 1) values[i] = 1;
    }
    return values;
  });
  // By the mix's matrix, (a, b) = softmax(x_0, x_1).
  Values x;
  const auto token = [&](int64_t first, int64_t second) {
    Values row = {-20, -20 + std::log(3.0), -20, -20, -20, -20};
    row[static_cast<size_t>(first)] = 1;
    row[static_cast<size_t>(second)] = 0;
    x.insert(x.end(), row.begin(), row.end());
  };
  token(kZero, kOtherZero);
  token(kCopy, kZero);
  token(kZero, kConst);
  token(kConst, kCopy);
  Microbatch microbatch;
  microbatch.batch = 1;
  microbatch.sequence = 4;
  Stash stash;
  const Values y = layers.read(
      layers[0].forward(layers.stream(), microbatch, layers.tensor({4, kColumns}, x), /*residual=*/{}, stash));
  const double more = 1 / (1 + std::exp(-1.0));  // the weights of a token's two experts, which sum to one
  const double less = 1 - more;
  for (size_t c = 0; c < kColumns; ++c) {
    const auto in = [&](size_t row) { return x[row * kColumns + c]; };
    const auto constant = [&](size_t row) { return 0.25 * in(row) + 0.75 * vector[c]; };
    EXPECT_EQ(y[c], 0.0);
    EXPECT_NEAR(y[kColumns + c], more * in(1), 1e-5);
    EXPECT_NEAR(y[2 * kColumns + c], less * constant(2), 1e-5);
    EXPECT_NEAR(y[3 * kColumns + c], more * constant(3) + less * in(3), 1e-5);
  }
}

}  // namespace
}  // namespace trireme::golden
