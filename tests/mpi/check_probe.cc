// The hands of probe_test.sh: what `trireme probe` needs to run a golden case, and the comparison of what it wrote.
//
//   check_probe command CASE             # the arguments behind `trireme probe`, but for --out, each on a line
//   check_probe compare CASE OUT [OTHER] # OUT against PyTorch, and against what another layout wrote
#include <gtest/gtest.h>

#include <iostream>

#include "tests/oracle/golden.h"

int main(int argc, char** argv) {
  using namespace trireme;
  ::testing::InitGoogleTest(&argc, argv);
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 2 && args[0] == "command") {
    for (const std::string& word : golden::probe_arguments(args[1])) std::cout << word << "\n";
    return 0;
  }
  if (args.size() < 3 || args[0] != "compare") return 2;
  ::testing::RegisterTest("Probe", "Compare", nullptr, nullptr, __FILE__, __LINE__, [=]() -> ::testing::Test* {
    class Compare : public ::testing::Test {
     public:
      explicit Compare(std::vector<std::string> words) : words_(std::move(words)) {}
      void TestBody() override {
        golden::expect_golden(words_[1], words_[2]);
        if (words_.size() > 3) golden::expect_same(words_[2], words_[3]);
      }

     private:
      std::vector<std::string> words_;
    };
    return new Compare(args);
  });
  return RUN_ALL_TESTS();
}
