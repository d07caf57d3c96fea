#include "core/ops/attention.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/attention.h"
#include "core/random/philox.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

using ops::AttentionShape;

// Everything that a call reads, as fp64 values that the dtype holds exactly.
struct Problem {
  AttentionShape shape;
  Values qkv, dout;
  std::vector<int32_t> document_start;  // empty: none

  int64_t tokens() const { return shape.batch * shape.sequence; }
  int64_t qkv_columns() const { return (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim; }
  int64_t out_columns() const { return shape.num_heads * shape.head_dim; }
  std::string str() const {
    return "B" + std::to_string(shape.batch) + " T" + std::to_string(shape.sequence) + " H" +
           std::to_string(shape.num_heads) + "/" + std::to_string(shape.num_kv_heads) + " D" +
           std::to_string(shape.head_dim) + (document_start.empty() ? "" : " documents");
  }
};

struct Results {
  Values out, lse, dqkv;
};

Values rounded(DType dtype, Values values) {
  for (double& v : values) {
    const float f = static_cast<float>(v);
    v = dtype == DType::bf16 ? static_cast<double>(static_cast<float>(bf16(f))) : static_cast<double>(f);
  }
  return values;
}

// Documents of random length, many of a single token.
std::vector<int32_t> random_documents(const AttentionShape& shape) {
  const uint64_t key = random_key(3, "documents");
  std::vector<int32_t> starts;
  for (int64_t b = 0; b < shape.batch; ++b) {
    int64_t start = 0, length = 0;
    for (int64_t t = 0; t < shape.sequence; ++t) {
      if (t == start + length) {
        start = t;
        const uint64_t i = static_cast<uint64_t>(b * shape.sequence + t);
        length = uniform_below(key, 2 * i, 3) == 0 ? 1 : 1 + static_cast<int64_t>(uniform_below(key, 2 * i + 1, 90));
      }
      starts.push_back(static_cast<int32_t>(start));
    }
  }
  return starts;
}

Problem make_problem(DType dtype, int64_t batch, int64_t sequence, int64_t heads, int64_t kv_heads, int64_t dim,
                     bool documents, double spread = 1.0) {
  Problem p;
  p.shape = {batch, sequence, heads, kv_heads, dim, static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)))};
  p.qkv = rounded(dtype, normal_values(p.tokens() * p.qkv_columns(), "qkv", spread));
  p.dout = rounded(dtype, normal_values(p.tokens() * p.out_columns(), "dout"));
  if (documents) p.document_start = random_documents(p.shape);
  return p;
}

// The definition, row by row, in fp64. dqkv is the derivative of dot(dout, out); where `given_out` is not null,
// backward works with that, as the op does with its rounded out.
Results reference(const Problem& p, const Values* given_out = nullptr) {
  const auto [batch, sequence, heads, kv_heads, dim, scale] = p.shape;
  const int64_t group = heads / kv_heads, columns = p.qkv_columns();
  Results r;
  r.out.assign(static_cast<size_t>(p.tokens() * p.out_columns()), 0);
  r.lse.assign(static_cast<size_t>(p.tokens() * heads), 0);
  r.dqkv.assign(p.qkv.size(), 0);
  std::vector<double> prob(static_cast<size_t>(sequence));
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t t = 0; t < sequence; ++t) {
        const int64_t row = b * sequence + t;
        const int64_t begin = p.document_start.empty() ? 0 : p.document_start[static_cast<size_t>(row)];
        const auto key_at = [&](int64_t j) { return (b * sequence + j) * columns + (heads + h / group) * dim; };
        const double* q = &p.qkv[static_cast<size_t>(row * columns + h * dim)];
        double* dq = &r.dqkv[static_cast<size_t>(row * columns + h * dim)];
        double* out = &r.out[static_cast<size_t>(row * p.out_columns() + h * dim)];
        const double* dout = &p.dout[static_cast<size_t>(row * p.out_columns() + h * dim)];
        double max = -1e300, sum = 0;
        for (int64_t j = begin; j <= t; ++j) {
          const double* k = &p.qkv[static_cast<size_t>(key_at(j))];
          double score = 0;
          for (int64_t d = 0; d < dim; ++d) score += q[d] * k[d];
          prob[static_cast<size_t>(j)] = score * static_cast<double>(scale);
          max = std::max(max, prob[static_cast<size_t>(j)]);
        }
        for (int64_t j = begin; j <= t; ++j) sum += std::exp(prob[static_cast<size_t>(j)] - max);
        const double lse = max + std::log(sum);
        r.lse[static_cast<size_t>((b * heads + h) * sequence + t)] = lse;
        for (int64_t j = begin; j <= t; ++j) {
          const double* v = &p.qkv[static_cast<size_t>(key_at(j) + kv_heads * dim)];
          prob[static_cast<size_t>(j)] = std::exp(prob[static_cast<size_t>(j)] - lse);
          for (int64_t d = 0; d < dim; ++d) out[d] += prob[static_cast<size_t>(j)] * v[d];
        }
        const double* used = given_out == nullptr ? out : &(*given_out)[static_cast<size_t>(out - r.out.data())];
        double delta = 0;
        for (int64_t d = 0; d < dim; ++d) delta += dout[d] * used[d];
        for (int64_t j = begin; j <= t; ++j) {
          const size_t at_k = static_cast<size_t>(key_at(j)), at_v = static_cast<size_t>(key_at(j) + kv_heads * dim);
          double dp = 0;
          for (int64_t d = 0; d < dim; ++d) dp += dout[d] * p.qkv[at_v + static_cast<size_t>(d)];
          const double ds = prob[static_cast<size_t>(j)] * (dp - delta) * static_cast<double>(scale);
          for (int64_t d = 0; d < dim; ++d) {
            const size_t i = static_cast<size_t>(d);
            dq[d] += ds * p.qkv[at_k + i];
            r.dqkv[at_k + i] += ds * q[d];
            r.dqkv[at_v + i] += prob[static_cast<size_t>(j)] * dout[d];
          }
        }
      }
    }
  }
  return r;
}

// The tensors of a call.
struct Tensors {
  Tensor qkv, document_start, dout, out, lse, dqkv;
};

Tensors make_tensors(Stream& stream, DType dtype, const Problem& p) {
  Tensors t;
  t.qkv = make_tensor(stream, dtype, {p.tokens(), p.qkv_columns()}, p.qkv);
  t.dout = make_tensor(stream, dtype, {p.tokens(), p.out_columns()}, p.dout);
  if (!p.document_start.empty()) t.document_start = make_ids(stream, p.document_start);
  t.out = make_unset(stream, dtype, {p.tokens(), p.out_columns()});
  t.lse = make_unset(stream, DType::f32, {p.shape.batch, p.shape.num_heads, p.shape.sequence});
  t.dqkv = make_unset(stream, dtype, {p.tokens(), p.qkv_columns()});
  return t;
}

Results read_results(Stream& stream, const Tensors& t) {
  return {read_values(stream, t.out), read_values(stream, t.lse), read_values(stream, t.dqkv)};
}

Tensors run_op(Stream& stream, DType dtype, const Problem& p) {
  Tensors t = make_tensors(stream, dtype, p);
  ops::attention_forward(stream, p.shape, t.qkv, t.document_start, t.out, t.lse);
  ops::attention_backward(stream, p.shape, t.qkv, t.document_start, t.out, t.lse, t.dout, t.dqkv);
  return t;
}

Tensors run_cpu_kernels(const cpu::AttentionKernels& kernels, Stream& stream, DType dtype, const Problem& p) {
  Tensors t = make_tensors(stream, dtype, p);
  cpu::attention_forward(kernels, stream, p.shape, t.qkv, t.document_start, t.out, t.lse);
  cpu::attention_backward(kernels, stream, p.shape, t.qkv, t.document_start, t.out, t.lse, t.dout, t.dqkv);
  return t;
}

// bf16 results are off by their rounding (2⁻⁹); kernels that multiply in bf16 also round P and dS.
void expect_results(DType dtype, bool multiplies_bf16, const Results& got, const Problem& p, const std::string& what) {
  const Results want = reference(p, &got.out);
  expect_close(got.out, want.out, dtype == DType::f32 ? 3e-6 : (multiplies_bf16 ? 8e-3 : 4e-3), what + " out");
  expect_close(got.lse, want.lse, 3e-6, what + " lse");
  expect_close(got.dqkv, want.dqkv, dtype == DType::f32 ? 1e-5 : (multiplies_bf16 ? 2.5e-2 : 4e-3), what + " dqkv");
}

bool same_bits(Stream& stream, const Tensor& a, const Tensor& b) {
  return read_bytes(stream, a) == read_bytes(stream, b);
}

class AttentionTest : public OpTest {
 protected:
  // The op, and on the CPU every kernel that this machine can run, against the reference.
  void check(DType dtype, const Problem& p) {
    const std::string what = dtype_name(dtype) + " " + p.str();
    expect_results(dtype, dtype == DType::bf16, read_results(stream(), run_op(stream(), dtype, p)), p, what);
    if (stream().device().type != DeviceType::cpu) return;
    for (const cpu::AttentionKernels* kernels : cpu::attention_kernels(dtype)) {
      const bool multiplies_bf16 = kernels->isa == cpu::AttentionIsa::avx512_bf16;
      expect_results(dtype, multiplies_bf16, read_results(stream(), run_cpu_kernels(*kernels, stream(), dtype, p)), p,
                     what + " " + kernels->name);
    }
  }
};

TEST_P(AttentionTest, ReferenceGradientIsThatOfFiniteDifferences) {
  for (const bool documents : {false, true}) {
    Problem p = make_problem(DType::f32, 2, 7, 4, 2, 3, documents);
    if (documents) p.document_start = {0, 0, 0, 3, 4, 4, 4, 0, 1, 1, 1, 1, 5, 6};
    const auto loss = [&](const Values& qkv) {
      Problem moved = p;
      moved.qkv = qkv;
      return dot(p.dout, reference(moved).out);
    };
    expect_close(reference(p).dqkv, gradient_of(loss, p.qkv), 1e-8, "reference");
  }
}

// Every length with every head dim; kinds of heads, batch sizes and documents take turns.
TEST_P(AttentionTest, MatchesTheReference) {
  const std::vector<std::pair<int64_t, int64_t>> heads = {{1, 1}, {2, 1}, {6, 2}, {3, 3}};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    size_t turn = 0;
    for (const int64_t dim : {4, 8, 12, 20, 64, 128}) {
      for (const int64_t sequence : {1, 2, 3, 17, 63, 64, 65, 130, 257}) {
        const auto [num_heads, num_kv_heads] = heads[turn % 4];
        const int64_t batch = sequence < 100 ? 1 + static_cast<int64_t>(turn % 3) : 1;
        check(dtype, make_problem(dtype, batch, sequence, num_heads, num_kv_heads, dim, turn % 5 < 2));
        ++turn;
      }
    }
  }
}

TEST_P(AttentionTest, OddHeadDims) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t dim : {1, 3, 7, 31, 33, 80, 130, 192, 256})
      check(dtype, make_problem(dtype, 1, 70, 2, 1, dim, dim % 2 == 0));
  }
}

// Long enough that one key head is cut into several tasks, with documents that end at, before and after tiles' edges.
TEST_P(AttentionTest, DocumentsAtTileEdges) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Problem p = make_problem(dtype, 1, 390, 2, 1, 16, false);
    for (const std::vector<int64_t>& starts :
         {std::vector<int64_t>{0, 64, 128, 192}, {0, 1, 63, 65, 66, 129, 200}, {0, 320}, {0, 5, 326, 327, 328, 389}}) {
      p.document_start.clear();
      for (int64_t t = 0; t < p.shape.sequence; ++t) {
        p.document_start.push_back(static_cast<int32_t>(*(std::upper_bound(starts.begin(), starts.end(), t) - 1)));
      }
      check(dtype, p);
    }
  }
}

// One document of its own per token: the output is the value.
TEST_P(AttentionTest, SingleTokenDocumentsCopyTheirValues) {
  Problem p = make_problem(DType::f32, 1, 100, 2, 1, 8, false);
  for (int32_t t = 0; t < 100; ++t) p.document_start.push_back(t);
  const Values out = read_values(stream(), run_op(stream(), DType::f32, p).out);
  for (size_t t = 0; t < 100; ++t) {
    for (size_t c = 0; c < 16; ++c) {
      const double value = p.qkv[t * 32 + 24 + c % 8];
      ASSERT_NEAR(out[t * 16 + c], value, 1e-6 * std::abs(value)) << t << " " << c;
    }
  }
}

// Scores of some hundreds: the exponentials of most underflow, none overflows.
TEST_P(AttentionTest, LargeScores) {
  const Problem p = make_problem(DType::f32, 1, 150, 2, 1, 32, false, /*spread=*/15.0);
  const Results got = read_results(stream(), run_op(stream(), DType::f32, p)), want = reference(p);
  expect_close(got.out, want.out, 3e-4, "out");  // scores of 1000 have errors of 1e-4
  expect_close(got.lse, want.lse, 3e-6, "lse");
  expect_close(got.dqkv, want.dqkv, 2e-3, "dqkv");
}

TEST_P(AttentionTest, SameBitsOnAnyPool) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t batch : {1, 3}) {
      const Problem p = make_problem(dtype, batch, 400, 4, 2, 24, /*documents=*/true);
      expect_same_bits_on_any_pool([&](Stream& other) {
        Tensors t = run_op(other, dtype, p);
        return std::vector<Tensor>{t.out, t.lse, t.dqkv};
      });
    }
  }
}

// What a row cannot see does not reach it, not even in the last bit.
TEST_P(AttentionTest, RowsSeeOnlyTheirDocumentsPast) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t changed : {0, 40, 64, 130, 190}) {
      const Problem p = make_problem(dtype, 1, 200, 2, 1, 20, /*documents=*/true);
      Problem other = p;
      const size_t columns = static_cast<size_t>(p.qkv_columns()), at = static_cast<size_t>(changed) * columns;
      for (size_t i = at; i < at + columns; ++i) other.qkv[i] = i % 2 == 0 ? 1e30 : -1e30;
      other.qkv = rounded(dtype, other.qkv);
      Tensors a = make_tensors(stream(), dtype, p), b = make_tensors(stream(), dtype, other);
      ops::attention_forward(stream(), p.shape, a.qkv, a.document_start, a.out, a.lse);
      ops::attention_forward(stream(), p.shape, b.qkv, b.document_start, b.out, b.lse);
      bool reached = false;
      for (int64_t t = 0; t < p.shape.sequence; ++t) {
        const bool sees = p.document_start[static_cast<size_t>(t)] <= changed && changed <= t;
        const bool same = same_bits(stream(), a.out.slice(t, t + 1), b.out.slice(t, t + 1));
        EXPECT_TRUE(sees || same) << dtype_name(dtype) << " row " << t << " depends on row " << changed;
        reached = reached || !same;
      }
      EXPECT_TRUE(reached);
    }
  }
}

// A NaN shows: in the row of its query, and nowhere else.
TEST_P(AttentionTest, NanQueryGivesNanRow) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Problem p = make_problem(dtype, 1, 80, 1, 1, 16, false);
    p.qkv[static_cast<size_t>(50 * p.qkv_columns() + 3)] = std::nan("");
    const Values out = read_values(stream(), run_op(stream(), dtype, p).out);
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 16 == 50) << i;
  }
}

// Later calls of the same shape ask the system for no memory.
TEST_P(AttentionTest, AllocatesOnlyOnce) {
  const Problem p = make_problem(DType::f32, 1, 300, 2, 1, 64, false);
  Tensors t = make_tensors(stream(), DType::f32, p);
  int64_t after_first = 0;
  for (int call = 0; call < 3; ++call) {
    ops::attention_forward(stream(), p.shape, t.qkv, t.document_start, t.out, t.lse);
    ops::attention_backward(stream(), p.shape, t.qkv, t.document_start, t.out, t.lse, t.dout, t.dqkv);
    if (call == 0) after_first = stream().allocator().stats().system_allocations;
  }
  EXPECT_EQ(stream().allocator().stats().system_allocations, after_first);
}

TEST_P(AttentionTest, RefusesWrongArguments) {
  const Problem p = make_problem(DType::f32, 1, 8, 2, 1, 4, false);
  Tensors t = make_tensors(stream(), DType::f32, p);
  AttentionShape shape = p.shape;
  shape.num_heads = 3;
  EXPECT_THROW(ops::attention_forward(stream(), shape, t.qkv, t.document_start, t.out, t.lse), BugError);
  Tensor wrong = unset(DType::bf16, t.out.shape());
  EXPECT_THROW(ops::attention_forward(stream(), p.shape, t.qkv, t.document_start, wrong, t.lse), BugError);
  EXPECT_THROW(ops::attention_backward(stream(), p.shape, t.qkv, t.document_start, t.out, t.lse, t.dout, t.qkv),
               BugError);
  if (stream().device().type != DeviceType::cpu) return;  // elsewhere the values cannot be read in time
  for (const std::vector<int32_t>& starts : {std::vector<int32_t>{0, 0, 3, 3, 3, 3, 3, 3}, {0, 1, 0, 0, 0, 0, 0, 0}}) {
    const Tensor bad = make_ids(stream(), starts);
    EXPECT_THROW(ops::attention_forward(stream(), p.shape, t.qkv, bad, t.out, t.lse), BugError);
  }
}

TRIREME_OP_DEVICES(AttentionTest);

}  // namespace
}  // namespace trireme::testing
