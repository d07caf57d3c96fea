#include "core/ops/gemm_algorithms.h"

#include <nlohmann/json.hpp>

#include "core/ops/linear.h"
#include "tests/unit/op_fixture.h"

namespace trireme::testing {
namespace {

class GemmAlgorithmsTest : public OpTest {
 protected:
  bool on_gpu() { return stream().device().type != DeviceType::cpu; }
};

// Every product of a linear layer, forward and backward; the bytes of all results.
std::vector<std::byte> run_products(Stream& stream) {
  const Tensor x = make_tensor(stream, DType::bf16, {32, 24}, normal_values(32 * 24, "x"));
  const Tensor weight = make_tensor(stream, DType::bf16, {40, 24}, normal_values(40 * 24, "weight"));
  const Tensor bias = make_tensor(stream, DType::bf16, {40}, normal_values(40, "bias"));
  Tensor y = make_unset(stream, DType::bf16, {32, 40});
  ops::linear_forward(stream, x, weight, bias, y);
  Tensor dx = make_unset(stream, DType::bf16, {32, 24});
  ops::linear_backward_input(stream, y, weight, dx, /*accumulate=*/false);
  Tensor dweight = make_unset(stream, DType::f32, {40, 24});
  Tensor dbias = make_unset(stream, DType::f32, {40});
  for (const bool accumulate : {false, true}) {
    ops::linear_backward_weight(stream, y, x, dweight, dbias, accumulate);
  }
  std::vector<std::byte> all;
  for (const Tensor& t : {y, dx, dweight, dbias}) {
    const std::vector<std::byte> bytes = read_bytes(stream, t);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

TEST_P(GemmAlgorithmsTest, NothingToRecordOnTheCpu) {
  if (on_gpu()) return;
  run_products(stream());
  EXPECT_EQ(ops::export_gemm_algorithms(stream()), "");
  EXPECT_TRUE(ops::import_gemm_algorithms(stream(), ""));
}

TEST_P(GemmAlgorithmsTest, AResumeTakesTheRecordedChoices) {
  const std::vector<std::byte> first = run_products(stream());
  const std::string record = ops::export_gemm_algorithms(stream());
  EXPECT_EQ(run_products(stream()), first);
  EXPECT_EQ(ops::export_gemm_algorithms(stream()), record) << "choices change";

  TestStream resumed(GetParam(), 3);
  EXPECT_TRUE(ops::import_gemm_algorithms(resumed.get(), record));
  EXPECT_EQ(ops::export_gemm_algorithms(resumed.get()), record);
  EXPECT_EQ(run_products(resumed.get()), first);
  EXPECT_EQ(ops::export_gemm_algorithms(resumed.get()), record) << "an imported choice was made anew";
}

// A choice that no timing would make: no algorithm for the bias, which a kernel of ours then adds.
TEST_P(GemmAlgorithmsTest, ImportedChoicesWinOverThoseAlreadyMade) {
  if (!on_gpu()) return;
  run_products(stream());
  nlohmann::json record = nlohmann::json::parse(ops::export_gemm_algorithms(stream()));
  ASSERT_FALSE(record["algorithms"].empty());
  std::string bias_kind;
  for (const auto& [kind, algorithm] : record["algorithms"].items()) {
    if (kind.find(" bias ") != std::string::npos) bias_kind = kind;
  }
  ASSERT_NE(bias_kind, "");
  ASSERT_NE(record["algorithms"][bias_kind], "none");
  record["algorithms"][bias_kind] = "none";
  EXPECT_TRUE(ops::import_gemm_algorithms(stream(), record.dump()));
  run_products(stream());
  const nlohmann::json after = nlohmann::json::parse(ops::export_gemm_algorithms(stream()));
  EXPECT_EQ(after["algorithms"][bias_kind], "none");
  EXPECT_EQ(after["algorithms"].size(), record["algorithms"].size() + 1) << "the product without a bias came instead";
}

TEST_P(GemmAlgorithmsTest, RecordsOfOthersAreLeftAside) {
  if (!on_gpu()) return;
  run_products(stream());
  const nlohmann::json record = nlohmann::json::parse(ops::export_gemm_algorithms(stream()));
  for (const char* key : {"library", "device"}) {
    TestStream other(GetParam(), 1);
    nlohmann::json changed = record;
    changed[key] = "another";
    EXPECT_FALSE(ops::import_gemm_algorithms(other.get(), changed.dump())) << key;
    EXPECT_TRUE(nlohmann::json::parse(ops::export_gemm_algorithms(other.get()))["algorithms"].empty()) << key;
  }
}

TEST_P(GemmAlgorithmsTest, DamagedRecordsAreRefused) {
  if (!on_gpu()) return;
  run_products(stream());
  nlohmann::json record = nlohmann::json::parse(ops::export_gemm_algorithms(stream()));
  EXPECT_THROW(ops::import_gemm_algorithms(stream(), "{\"library\": "), DataError);
  EXPECT_THROW(ops::import_gemm_algorithms(stream(), "[]"), DataError);
  const std::string kind = record["algorithms"].begin().key();
  for (const char* text : {"", "0123", "nothing"}) {
    record["algorithms"][kind] = text;
    EXPECT_THROW(ops::import_gemm_algorithms(stream(), record.dump()), DataError) << text;
  }
  record["algorithms"][kind] = 7;
  EXPECT_THROW(ops::import_gemm_algorithms(stream(), record.dump()), DataError);
}

TRIREME_OP_DEVICES(GemmAlgorithmsTest);

}  // namespace
}  // namespace trireme::testing
