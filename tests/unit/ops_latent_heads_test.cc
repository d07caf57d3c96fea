// Heads of latent attention against a reference in fp64; the backward pass against the derivative of the reference.
#include <cmath>

#include "core/ops/latent_heads.h"
#include "tests/unit/op_fixture.h"
#include "tests/unit/tolerances.h"

namespace trireme::testing {
namespace {

using ops::LatentHeads;

// Heads that attention must fill up (v < qk, v > qk), that fit, and widths that no vector divides.
const std::vector<LatentHeads> kCases = {{2, 8, 8, 8}, {3, 16, 8, 32}, {2, 5, 2, 3}, {4, 0, 4, 4}, {1, 128, 64, 128}};

class LatentHeadsTest : public OpTest {};

struct Inputs {
  std::vector<int32_t> positions;
  Values table;  // cosines and sines of every position
};

Inputs inputs_of(const LatentHeads& heads, int64_t rows) {
  Inputs in{uniform_ids(rows, 20, "positions"), {}};
  for (int64_t p = 0; p < 20; ++p) {
    for (const bool sine : {false, true}) {
      for (int64_t i = 0; i < heads.rope / 2; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(heads.rope));
        in.table.push_back(sine ? std::sin(angle) : std::cos(angle));
      }
    }
  }
  return in;
}

// The definition: [q | k | v], each head [nope | rotated | zeros].
Values reference(const LatentHeads& h, const Inputs& in, const Values& q, const Values& kv, const Values& k_rope) {
  const auto at = [](const Values& x, int64_t i) { return x[static_cast<size_t>(i)]; };
  Values out;
  for (size_t n = 0; n < in.positions.size(); ++n) {
    const int64_t row = static_cast<int64_t>(n);
    const auto turned = [&](const Values& x, int64_t begin, int64_t i) {
      const int64_t angle = in.positions[n] * h.rope + i / 2;
      const double cos = at(in.table, angle);
      const double sin = at(in.table, angle + h.rope / 2);
      const double a = at(x, begin + i / 2 * 2);
      const double b = at(x, begin + i / 2 * 2 + 1);
      return i % 2 == 0 ? a * cos - b * sin : b * cos + a * sin;
    };
    for (int section = 0; section < 3; ++section) {
      for (int64_t head = 0; head < h.num_heads; ++head) {
        const int64_t of_q = (row * h.num_heads + head) * h.qk();
        const int64_t of_kv = (row * h.num_heads + head) * (h.nope + h.v);
        for (int64_t i = 0; i < h.width(); ++i) {
          double value = 0;
          if (section == 2) {
            if (i < h.v) value = at(kv, of_kv + h.nope + i);
          } else if (i < h.nope) {
            value = section == 0 ? at(q, of_q + i) : at(kv, of_kv + i);
          } else if (i < h.qk()) {
            value = section == 0 ? turned(q, of_q + h.nope, i - h.nope) : turned(k_rope, row * h.rope, i - h.nope);
          }
          out.push_back(value);
        }
      }
    }
  }
  return out;
}

TEST_P(LatentHeadsTest, PackMatchesItsDefinition) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const LatentHeads& h : kCases) {
      for (const int64_t rows : {0, 1, 7}) {
        const Inputs in = inputs_of(h, rows);
        const Tensor q = normal(dtype, {rows, h.num_heads * h.qk()}, "q");
        const Tensor kv = normal(dtype, {rows, h.num_heads * (h.nope + h.v)}, "kv");
        const Tensor key = normal(dtype, {rows, h.rope}, "key");
        const Tensor table = tensor(DType::f32, {20, h.rope}, in.table);
        Tensor qkv = unset(dtype, {rows, 3 * h.num_heads * h.width()});
        ops::pack_latent_heads(stream(), h, q, kv, key, make_ids(stream(), in.positions), table, qkv);
        expect_close(read(qkv), reference(h, in, read(q), read(kv), read(key)), tolerance(dtype, OpKind::elementwise),
                     dtype_name(dtype) + " " + qkv.shape().str());
      }
    }
  }
}

// The first case is one that vectors divide.
TEST_P(LatentHeadsTest, UnpackIsTheGradient) {
  for (const LatentHeads& h : {LatentHeads{2, 8, 8, 24}, LatentHeads{2, 4, 4, 6}, LatentHeads{3, 3, 2, 2}}) {
    const int64_t rows = 3;
    const Inputs in = inputs_of(h, rows);
    const Values q = normal_values(rows * h.num_heads * h.qk(), "q");
    const Values kv = normal_values(rows * h.num_heads * (h.nope + h.v), "kv");
    const Values key = normal_values(rows * h.rope, "key");
    const Tensor table = tensor(DType::f32, {20, h.rope}, in.table);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor dqkv = normal(dtype, {rows, 3 * h.num_heads * h.width()}, "dqkv");
      const Values d = read(dqkv);
      Tensor dq = unset(dtype, {rows, h.num_heads * h.qk()});
      Tensor dkv = unset(dtype, {rows, h.num_heads * (h.nope + h.v)});
      Tensor dkey = unset(dtype, {rows, h.rope});
      ops::unpack_latent_heads(stream(), h, dqkv, make_ids(stream(), in.positions), table, dq, dkv, dkey);
      const double limit = tolerance(dtype, OpKind::elementwise);
      const std::string what = " " + dtype_name(dtype) + " " + dqkv.shape().str();
      expect_close(read(dq), gradient_of([&](const Values& x) { return dot(d, reference(h, in, x, kv, key)); }, q),
                   limit, "dq" + what);
      expect_close(read(dkv), gradient_of([&](const Values& x) { return dot(d, reference(h, in, q, x, key)); }, kv),
                   limit, "dkv" + what);
      expect_close(read(dkey), gradient_of([&](const Values& x) { return dot(d, reference(h, in, q, kv, x)); }, key),
                   limit, "dkey" + what);
    }
  }
}

// In bf16 the shared key's gradient is added in fp32: the sum of many heads that bf16 could not add one by one.
TEST_P(LatentHeadsTest, SharedKeyIsSummedInFp32) {
  const LatentHeads h{600, 2, 2, 2};
  Tensor dqkv = tensor(DType::bf16, {1, 3 * 600 * 4}, Values(3 * 600 * 4, 1.0));
  Tensor dq = unset(DType::bf16, {1, 600 * 4});
  Tensor dkv = unset(DType::bf16, {1, 600 * 4});
  Tensor dkey = unset(DType::bf16, {1, 2});
  ops::unpack_latent_heads(stream(), h, dqkv, make_ids(stream(), {0}), tensor(DType::f32, {1, 2}, {1.0, 0.0}), dq, dkv,
                           dkey);
  EXPECT_EQ(read(dkey), Values({600.0, 600.0}));
}

TEST_P(LatentHeadsTest, ResizedHeadsKeepTheirBeginning) {
  for (const auto& [from, to] : {std::pair<int64_t, int64_t>{8, 16}, {16, 8}, {3, 5}, {5, 3}, {4, 4}}) {
    const Tensor x = normal(DType::bf16, {5, 3 * from}, "x");
    Tensor y = unset(DType::bf16, {5, 3 * to});
    ops::resize_heads(stream(), x, 3, y);
    const Values in = read(x);
    Values want;
    for (int64_t head = 0; head < 15; ++head) {
      for (int64_t i = 0; i < to; ++i) want.push_back(i < from ? in[static_cast<size_t>(head * from + i)] : 0.0);
    }
    EXPECT_EQ(read(y), want) << from << " to " << to;
  }
}

TEST_P(LatentHeadsTest, NothingToDoAndWhatDoesNotFit) {
  const LatentHeads h{2, 4, 2, 4};
  const Tensor table = tensor(DType::f32, {1, 2}, {1, 0});
  const Tensor positions = make_ids(stream(), {});
  Tensor qkv = unset(DType::f32, {0, 36});
  Tensor q = unset(DType::f32, {0, 12});
  Tensor kv = unset(DType::f32, {0, 16});
  Tensor key = unset(DType::f32, {0, 2});
  ops::pack_latent_heads(stream(), h, q, kv, key, positions, table, qkv);
  ops::unpack_latent_heads(stream(), h, qkv, positions, table, q, kv, key);
  EXPECT_THROW(ops::pack_latent_heads(stream(), h, kv, kv, key, positions, table, qkv), BugError);
  EXPECT_THROW(ops::unpack_latent_heads(stream(), h, qkv, positions, table, q, q, key), BugError);
  EXPECT_THROW(ops::unpack_latent_heads(stream(), h, qkv, positions, key, q, kv, q), BugError);

  const Tensor no_width = unset(DType::f32, {3, 0});
  Tensor y = unset(DType::f32, {3, 4});
  ops::resize_heads(stream(), no_width, 2, y);
  EXPECT_EQ(read(y), Values(12));
  Tensor nothing = unset(DType::f32, {3, 0});
  ops::resize_heads(stream(), y, 2, nothing);
  EXPECT_THROW(ops::resize_heads(stream(), y, 3, nothing), BugError);
}

TRIREME_OP_DEVICES(LatentHeadsTest);

}  // namespace
}  // namespace trireme::testing
