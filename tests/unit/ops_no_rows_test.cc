// A rank may have no tokens: under sequence parallelism the last ranks get what is left. Every op then does nothing, but
// what it owes to others it still writes: gradients of weights are zeros, or stay as they are where it adds.
#include "core/ops/activation.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/ops/rotary.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

constexpr int64_t kColumns = 24;
constexpr int64_t kOut = 40;

class NoRowsTest : public OpTest {
 protected:
  Tensor nothing(DType dtype, int64_t columns) { return unset(dtype, {0, columns}); }
  Tensor no_ids() { return make_ids(stream(), {}); }
  void expect_zero(const Tensor& t, const std::string& what) {
    EXPECT_EQ(read(t), Values(static_cast<size_t>(t.numel()))) << what;
  }
};

TEST_P(NoRowsTest, Norm) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool layer : {false, true}) {
      const Tensor x = nothing(dtype, kColumns);
      const Tensor weight = normal(dtype, {kColumns}, "weight");
      const Tensor bias = layer ? normal(dtype, {kColumns}, "bias") : Tensor{};
      Tensor y = nothing(dtype, kColumns);
      Tensor sum = nothing(dtype, kColumns);
      ops::NormStats stats{layer ? unset(DType::f32, {0}) : Tensor{}, unset(DType::f32, {0})};
      ops::norm_forward(stream(), x, weight, bias, 1e-5f, y, stats);
      ops::add_norm_forward(stream(), x, x, weight, bias, 1e-5f, sum, y, stats);
      for (const Tensor& residual : {Tensor{}, x}) {
        Tensor dx = nothing(dtype, kColumns);
        Tensor dweight = unset(DType::f32, {kColumns});
        Tensor dbias = layer ? unset(DType::f32, {kColumns}) : Tensor{};
        ops::norm_backward(stream(), y, x, weight, stats, residual, dx, dweight, dbias);
        expect_zero(dweight, "dweight");
        if (layer) expect_zero(dbias, "dbias");
      }
    }
  }
}

TEST_P(NoRowsTest, NormOfHeads) {
  constexpr int64_t kHeads = 3;
  constexpr int64_t kKvHeads = 1;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t dim : {8, 64}) {
      const Tensor qkv = nothing(dtype, (kHeads + 2 * kKvHeads) * dim);
      const Tensor weight = normal(dtype, {dim}, "weight");
      Tensor out = nothing(dtype, qkv.dim(1));
      Tensor rstd = unset(DType::f32, {0, kHeads + kKvHeads});
      ops::qk_norm_forward(stream(), qkv, weight, weight, kHeads, kKvHeads, 1e-5f, out, rstd);
      Tensor dq_weight = unset(DType::f32, {dim});
      Tensor dk_weight = unset(DType::f32, {dim});
      ops::qk_norm_backward(stream(), out, qkv, weight, weight, rstd, kHeads, kKvHeads, dq_weight, dk_weight);
      expect_zero(dq_weight, "dq_weight");
      expect_zero(dk_weight, "dk_weight");
    }
  }
}

TEST_P(NoRowsTest, LinearForwardAndBackwardInput) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = nothing(dtype, kColumns);
    const Tensor weight = normal(dtype, {kOut, kColumns}, "weight");
    Tensor dx = nothing(dtype, kColumns);
    for (const Tensor& bias : {Tensor{}, normal(dtype, {kOut}, "bias")}) {
      Tensor y = nothing(dtype, kOut);
      Tensor up = nothing(dtype, kOut);
      Tensor logits = nothing(DType::f32, kOut);
      ops::linear_forward(stream(), x, weight, bias, y);
      ops::linear_forward(stream(), x, weight, bias, logits);
      ops::linear_add_forward(stream(), x, weight, bias, nothing(dtype, kOut), y);
      for (const ops::Gelu kind : {ops::Gelu::tanh, ops::Gelu::erf}) {
        (void)ops::linear_gelu_forward(stream(), x, weight, bias, kind, up, y);
        ops::linear_gelu_backward_input(stream(), y, weight, x, kind, dx);
      }
      for (const bool accumulate : {false, true}) ops::linear_backward_input(stream(), y, weight, dx, accumulate);
    }
    stream().synchronize();
  }
}

TEST_P(NoRowsTest, LinearWeightGradientsAreZerosOrStay) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const DType gradient : {DType::f32, DType::bf16}) {
      const Tensor x = nothing(dtype, kColumns);
      const Tensor dy = nothing(dtype, kOut);
      for (const bool with_bias : {false, true}) {
        Tensor dweight = unset(gradient, {kOut, kColumns});
        Tensor dbias = with_bias ? unset(gradient, {kOut}) : Tensor{};
        ops::linear_backward_weight(stream(), dy, x, dweight, dbias, /*accumulate=*/false);
        expect_zero(dweight, "dweight");
        if (with_bias) expect_zero(dbias, "dbias");
        dweight = normal(gradient, {kOut, kColumns}, "before");
        if (with_bias) dbias = normal(gradient, {kOut}, "bias before");
        const Values weight_before = read(dweight);
        const Values bias_before = with_bias ? read(dbias) : Values{};
        ops::linear_backward_weight(stream(), dy, x, dweight, dbias, /*accumulate=*/true);
        EXPECT_EQ(read(dweight), weight_before);
        EXPECT_EQ(with_bias ? read(dbias) : Values{}, bias_before);
      }
    }
  }
}

TEST_P(NoRowsTest, Embedding) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor table = normal(dtype, {16, kColumns}, "table");
    for (const ops::VocabularyPart& part : {ops::VocabularyPart{0, 16}, {32, 13}, {48, 0}}) {
      Tensor y = nothing(dtype, kColumns);
      ops::embedding_forward(stream(), no_ids(), table, part, {}, {}, y);
      ops::embedding_forward(stream(), no_ids(), table, part, no_ids(), table, y);
      Tensor dtable = unset(dtype, table.shape());
      ops::embedding_backward(stream(), no_ids(), part, y, dtable, /*accumulate=*/false);
      expect_zero(dtable, "dtable");
      ops::copy(stream(), table, dtable);
      ops::embedding_backward(stream(), no_ids(), part, y, dtable, /*accumulate=*/true);
      EXPECT_EQ(read(dtable), read(table));
    }
  }
}

TEST_P(NoRowsTest, CrossEntropy) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor logits = nothing(dtype, kColumns);
    const Tensor scale = tensor(DType::f32, {1}, {1});
    Tensor losses = unset(DType::f32, {0});
    Tensor dlogits = nothing(dtype, kColumns);
    Tensor stats = unset(DType::f32, {0, 3});
    ops::cross_entropy_stats(stream(), logits, no_ids(), {0, 20}, stats);
    for (const Tensor& stats_of_all : {Tensor{}, unset(DType::f32, {2, 0, 3})}) {
      ops::cross_entropy(stream(), logits, no_ids(), {0, 20}, stats_of_all, scale, losses, dlogits);
    }
    stream().synchronize();
  }
}

TEST_P(NoRowsTest, Activations) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = nothing(dtype, kColumns);
    const Tensor gate_up = nothing(dtype, 2 * kColumns);
    Tensor y = nothing(dtype, kColumns);
    Tensor dgate_up = nothing(dtype, 2 * kColumns);
    for (const ops::Gelu kind : {ops::Gelu::tanh, ops::Gelu::erf}) {
      ops::gelu_forward(stream(), x, kind, y);
      ops::gelu_backward(stream(), x, x, kind, y);
    }
    ops::swiglu_forward(stream(), gate_up, y);
    ops::swiglu_backward(stream(), x, gate_up, dgate_up);
    stream().synchronize();
  }
}

TEST_P(NoRowsTest, Rotary) {
  const Tensor table = normal(DType::f32, {5, 8}, "table");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tensor qkv = nothing(dtype, 5 * 8);
    for (const bool inverse : {false, true}) ops::rotary(stream(), qkv, no_ids(), table, 4, 8, inverse);
    stream().synchronize();
  }
}

TEST_P(NoRowsTest, Elementwise) {
  Tensor wide = nothing(DType::f32, kColumns);
  Tensor narrow = nothing(DType::bf16, kColumns);
  ops::fill(stream(), wide, 3);
  ops::cast(stream(), wide, narrow);
  ops::cast(stream(), narrow, wide);
  ops::copy(stream(), narrow, narrow);
  ops::add(stream(), wide, wide, wide);
  ops::add(stream(), narrow, narrow, narrow);
  ops::scale(stream(), wide, 2);
  for (const bool accumulate : {false, true}) {
    ops::accumulate(stream(), wide, narrow, accumulate);
    ops::accumulate(stream(), wide, wide, accumulate);
    Tensor out = tensor(DType::f64, {1}, {5});
    ops::sum(stream(), wide, out, accumulate);
    EXPECT_EQ(read(out)[0], accumulate ? 5 : 0);
    ops::fill(stream(), out, 5);
    ops::sum_squares(stream(), narrow, out, accumulate);
    EXPECT_EQ(read(out)[0], accumulate ? 5 : 0);
  }
}

TRIREME_OP_DEVICES(NoRowsTest);

}  // namespace
}  // namespace trireme::testing
