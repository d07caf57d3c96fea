// What modules of multi-token prediction are told and asked.
#include <gtest/gtest.h>

#include <vector>

#include "launcher/microbatch.h"
#include "tests/unit/op_fixture.h"

namespace trireme {
namespace {

class Ahead : public ::testing::Test {
 protected:
  testing::TestStream stream_{Device{}, 1};
  // Two sequences of five tokens, whose labels are the next ones, one of them ignored.
  const std::vector<int32_t> tokens_ = {10, 11, 12, 13, 14, 20, 21, 22, 23, 24};
  const std::vector<int32_t> labels_ = {11, 12, 13, -100, 15, 21, 22, 23, 24, 25};
  const std::vector<int32_t> positions_ = std::vector<int32_t>(10, 0);  // not asked
  // The second sequence is a document of two tokens and one of three.
  const std::vector<int32_t> starts_ = {0, 0, 0, 0, 0, 0, 0, 2, 2, 2};

  Microbatch ahead(int64_t num_predictors, bool masked) {
    const HostMicrobatch host{
        2, 5, tokens_.data(), labels_.data(), positions_.data(), masked ? starts_.data() : nullptr};
    Microbatch m;
    add_ahead(stream_.get(), host, num_predictors, m);
    stream_.get().synchronize();
    return m;
  }
};

std::vector<int32_t> ints(const Tensor& x) { return {x.data<int32_t>(), x.data<int32_t>() + x.numel()}; }

TEST_F(Ahead, EndsWithTheSequence) {
  const Microbatch m = ahead(2, false);
  ASSERT_EQ(m.ahead.size(), 2u);
  EXPECT_EQ(ints(m.ahead[0].tokens), (std::vector<int32_t>{11, 12, 13, 14, 0, 21, 22, 23, 24, 0}));
  EXPECT_EQ(ints(m.ahead[0].labels), (std::vector<int32_t>{12, 13, -100, 15, -100, 22, 23, 24, 25, -100}));
  EXPECT_EQ(ints(m.ahead[1].tokens), (std::vector<int32_t>{12, 13, 14, 0, 0, 22, 23, 24, 0, 0}));
  EXPECT_EQ(ints(m.ahead[1].labels), (std::vector<int32_t>{13, -100, 15, -100, -100, 23, 24, 25, -100, -100}));
}

TEST_F(Ahead, EndsWithTheDocument) {
  const Microbatch m = ahead(2, true);
  EXPECT_EQ(ints(m.ahead[0].tokens), (std::vector<int32_t>{11, 12, 13, 14, 0, 21, 0, 23, 24, 0}));
  EXPECT_EQ(ints(m.ahead[0].labels), (std::vector<int32_t>{12, 13, -100, 15, -100, 22, -100, 24, 25, -100}));
  EXPECT_EQ(ints(m.ahead[1].labels), (std::vector<int32_t>{13, -100, 15, -100, -100, -100, -100, 25, -100, -100}));
}

TEST_F(Ahead, MoreModulesThanTokens) {
  const Microbatch m = ahead(6, false);
  EXPECT_EQ(ints(m.ahead[5].labels), std::vector<int32_t>(10, -100));
  EXPECT_EQ(ints(m.ahead[5].tokens), std::vector<int32_t>(10, 0));
}

}  // namespace
}  // namespace trireme
