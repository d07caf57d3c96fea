// Every file of configs/: it is read, its plan resolves on one and two ranks, and it says what its page says.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/config/load.h"
#include "models/transformer.h"
#include "parallel/resolve.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = fs::path(TRIREME_SOURCE_DIR) / "configs";

TEST(Configs, EachResolvesOnOneAndTwoRanks) {
  std::ifstream page(kConfigs / "README.md");
  std::ostringstream text;
  text << page.rdbuf();
  int num_files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml") continue;
    ++num_files;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const Config config = load_config(entry.path().string(), {});
    for (const int64_t ranks : {1, 2}) {
      const Mesh mesh = resolve_mesh(config.parallel, ranks, 0);
      EXPECT_GE(resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree()), 1);
    }
    EXPECT_GT(count_parameters(config.model), 0);
    EXPECT_NE(text.str().find("`" + name + "`"), std::string::npos) << "configs/README.md has no row of it";
  }
  EXPECT_GE(num_files, 1);
}

TEST(Configs, QuickstartIsTheModelOfItsPage) {
  const Config config = load_config((kConfigs / "quickstart.yaml").string(), {});
  EXPECT_EQ(count_parameters(config.model), 1820352);
  EXPECT_EQ(config.run.steps, 600);
  EXPECT_EQ(config.run.dir, "runs/kjv");
}

}  // namespace
}  // namespace trireme
