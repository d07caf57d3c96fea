// `trireme checkpoint …` as it is typed: results, exit codes, what is left on the disk.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/hugging_face_import.h"
#include "core/config/load.h"
#include "launcher/cli.h"
#include "launcher/logit_check.h"
#include "tests/unit/data_testing.h"
#include "tests/unit/hugging_face_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::expect_same_tensors;
using testing::Filling;
using testing::hugging_face_model;
using testing::read_file;
using testing::StoredAs;
using testing::TempDir;
using testing::write_file;
using testing::write_hugging_face;

const std::string kGolden = std::string(TRIREME_SOURCE_DIR) + "/tests/oracle/golden";

struct Outcome {
  int code;
  std::string out;
  std::string err;
};

Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"trireme", "checkpoint"});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = run_command_line(static_cast<int>(argv.size()), argv.data());
  std::fflush(stdout);
  return {code, ::testing::internal::GetCapturedStdout(), ::testing::internal::GetCapturedStderr()};
}

void expect_code(int code, const std::vector<std::string>& arguments, const std::string& part = "") {
  const Outcome outcome = run(arguments);
  EXPECT_EQ(outcome.code, code) << outcome.out << outcome.err;
  EXPECT_CONTAINS(outcome.out + outcome.err, part);
}

std::vector<std::string> golden_cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    // No config.json has a word for the experts of MoE++.
    if (entry.path().filename().string().starts_with("moe_plusplus")) continue;
    if (fs::exists(entry.path() / "config.json")) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// What PyTorch wrote comes in, and goes out as it was.
class GoldenRoundTrip : public ::testing::TestWithParam<std::string> {};
TEST_P(GoldenRoundTrip, IsBitEqual) {
  const TempDir dir;
  const std::string golden = kGolden + "/" + GetParam();
  const Outcome imported = run({"import", golden, dir / "ckpt"});
  EXPECT_EQ(imported.code, 0) << imported.err;
  EXPECT_CONTAINS(imported.out, "logits       equal (of ");
  expect_code(0, {"verify", dir / "ckpt"}, "OK " + (dir / "ckpt") + ": step 0, ");
  expect_code(0, {"export", dir / "ckpt", dir / "hf", "--max-shard-size", "20KB"}, "logits       equal (of ");
  EXPECT_TRUE(fs::exists(dir / "hf/model.safetensors.index.json"));
  expect_same_tensors(dir / "hf", golden);
  EXPECT_EQ(load_hf_model(dir / "hf"), load_hf_model(golden));
  EXPECT_TRUE(fs::exists(dir / "hf/generation_config.json"));
}
INSTANTIATE_TEST_SUITE_P(Cases, GoldenRoundTrip, ::testing::ValuesIn(golden_cases()));

class CheckpointCommand : public ::testing::Test {
 protected:
  // A small model with numbers from which logits can be made.
  std::string make(const std::string& name, const std::string& model = "qwen2", StoredAs dtype = StoredAs::f32) {
    write_hugging_face(dir_ / (name + "-hf"), hugging_face_model(model).config, dtype, Filling::numbers);
    expect_code(0, {"import", dir_ / (name + "-hf"), dir_ / name});
    return dir_ / name;
  }
  static void flip(const std::string& file, size_t at) {
    std::string bytes = read_file(file);
    bytes.at(at) ^= 16;
    write_file(file, bytes);
  }

  TempDir dir_;
};

TEST_F(CheckpointCommand, ConvertsBf16AndRoundsToIt) {
  const std::string narrow = make("narrow", "gpt2", StoredAs::bf16);
  expect_code(0, {"export", narrow, dir_ / "out"}, "bfloat16");
  expect_same_tensors(dir_ / "out", dir_ / "narrow-hf");
  const std::string wide = make("wide", "gpt2_untied");
  expect_code(0, {"export", wide, dir_ / "rounded", "--dtype", "bf16"}, "logits       equal (of 19 ");
  EXPECT_EQ(nlohmann::json::parse(read_file(dir_ / "rounded/config.json"))["dtype"], "bfloat16");
  expect_code(0, {"import", dir_ / "rounded", dir_ / "again"});
  expect_code(0, {"diff", dir_ / "again", wide, "--tolerance", "0.004"}, "equal within the tolerance");
  expect_code(7, {"diff", dir_ / "again", wide}, "BF16 and F32");
}

TEST_F(CheckpointCommand, AnyNameOfADirectoryWillDo) {
  const std::string checkpoint = make("qwen2.5");
  expect_code(0, {"verify", checkpoint}, "OK");
  expect_code(0, {"verify", checkpoint + "/"}, "OK");
  fs::rename(checkpoint, checkpoint + ".tmp");  // as one that is still being written
  expect_code(3, {"verify", checkpoint + ".tmp"}, "there is no checkpoint");
  expect_code(3, {"verify", checkpoint + ".tmp/"}, "there is no checkpoint");
}

TEST_F(CheckpointCommand, NothingIsOverwritten) {
  const std::string checkpoint = make("a");
  fs::create_directories(dir_ / "full");
  write_file(dir_ / "full/x", "mine");
  expect_code(2, {"export", checkpoint, dir_ / "full"}, "not empty");
  expect_code(2, {"import", dir_ / "a-hf", dir_ / "full"}, "not empty");
  EXPECT_EQ(read_file(dir_ / "full/x"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 3);  // nothing temporary
}

TEST_F(CheckpointCommand, WrongWordsAreRefused) {
  const std::string checkpoint = make("a");
  expect_code(2, {"export", checkpoint, dir_ / "out", "--dtype", "fp8"}, "fp8");
  expect_code(2, {"export", checkpoint, dir_ / "out", "--max-shard-size", "big"}, "--max-shard-size isn't a size");
  expect_code(2, {"diff", checkpoint, checkpoint, "--tolerance", "-1"}, "tolerance");
  expect_code(3, {"export", dir_ / "nowhere", dir_ / "out"}, "there is no checkpoint");
  expect_code(3, {"verify", dir_.path()}, "there is no checkpoint");
  expect_code(2, {"import", dir_ / "nowhere", dir_ / "out"}, "config.json was not found");
  write_file(dir_ / "a-hf/config.json", R"({"model_type": "mamba"})");
  expect_code(2, {"import", dir_ / "a-hf", dir_ / "out"}, "model.model_type has an unknown value");
  EXPECT_FALSE(fs::exists(dir_ / "out"));
}

TEST_F(CheckpointCommand, AFailedConversionLeavesNothing) {
  const std::string checkpoint = make("a");
  std::string bytes = read_file(dir_ / "a-hf/model.safetensors");
  write_file(dir_ / "a-hf/model.safetensors", bytes.substr(0, bytes.size() - 3));
  expect_code(3, {"import", dir_ / "a-hf", dir_ / "out"}, "truncated");
  flip(checkpoint + "/weights-00000.safetensors", 20000);
  expect_code(3, {"export", checkpoint, dir_ / "out"}, "weights-00000.safetensors, chunk 0");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 2);
}

TEST_F(CheckpointCommand, VerifyNamesEverythingThatIsBroken) {
  const std::string checkpoint = make("a");
  const CheckpointReader reader(checkpoint);
  const auto scattered = [&](int64_t step) {
    const std::string path = dir_ / ("run/checkpoints/step-0000000" + std::to_string(step));
    testing::scatter_checkpoint(reader, path, static_cast<uint64_t>(step));
    return path;
  };
  const std::string one = scattered(1);
  const std::string two = scattered(2);
  expect_code(0, {"verify", dir_ / "run"}, "OK " + one);
  flip(one + "/part0", 100);
  fs::remove(one + "/part1");
  const Outcome broken = run({"verify", one});
  EXPECT_EQ(broken.code, 3);
  EXPECT_CONTAINS(broken.out, "part0, chunk 0");
  EXPECT_CONTAINS(broken.out, "part1");
  EXPECT_CONTAINS(broken.out, "missing");
  const Outcome both = run({"verify", dir_ / "run"});
  EXPECT_EQ(both.code, 3);
  EXPECT_CONTAINS(both.out, "part1");
  EXPECT_CONTAINS(both.out, "OK " + two);
  flip(two + "/manifest.json", 200);
  expect_code(3, {"verify", two}, "manifest");
}

TEST_F(CheckpointCommand, DiffOfDifferentLayoutsAndWeights) {
  const std::string a = make("a");
  testing::scatter_checkpoint(CheckpointReader(a), dir_ / "b", 3);
  expect_code(0, {"diff", a, dir_ / "b"}, "bit-equal");
  // One element of one tensor is another one.
  std::string bytes = read_file(dir_ / "a-hf/model.safetensors");
  bytes[bytes.size() - 1] ^= 0x40;
  write_file(dir_ / "a-hf/model.safetensors", bytes);
  expect_code(0, {"import", dir_ / "a-hf", dir_ / "c"});
  expect_code(7, {"diff", a, dir_ / "c"}, "1 differ");
  expect_code(7, {"diff", a, dir_ / "c"}, "lm_head.weight");
}

TEST_F(CheckpointCommand, InspectShowsFilesAndTensors) {
  const std::string a = make("a");
  const Outcome text = run({"inspect", a});
  EXPECT_EQ(text.code, 0);
  for (const char* part : {"step        0\n", "qwen2, 3 layers, hidden 26, 5 heads (1 kv)", "weights-00000.safetensors",
                           "model.layers.2.self_attn.q_proj.weight          F32    [30, 26]  3.0 KiB      1\n"}) {
    EXPECT_CONTAINS(text.out, part);
  }
  const auto json = nlohmann::json::parse(run({"inspect", a, "--json"}).out);
  EXPECT_EQ(json["step"], 0);
  EXPECT_EQ(json["files"][0]["bytes"], fs::file_size(a + "/weights-00000.safetensors"));
  EXPECT_EQ(json["tensors"].size(), 39u);
  EXPECT_EQ(json["tensors"][0]["name"], "lm_head.weight");
  EXPECT_EQ(json["tensors"][0]["shape"], (std::vector<int>{47, 26}));
  EXPECT_EQ(json["tensors"][0]["bytes"], 47 * 26 * 4);
}

TEST_F(CheckpointCommand, TheTokenizerComesAlong) {
  write_hugging_face(dir_ / "hf", hugging_face_model("llama").config, StoredAs::f32, Filling::numbers);
  fs::copy(kGolden + "/sentencepiece/plain.model", dir_ / "hf/tokenizer.model");
  write_file(dir_ / "hf/tokenizer_config.json", "{}");
  expect_code(0, {"import", dir_ / "hf", dir_ / "ckpt"}, "tokenizer    " + (dir_ / "hf"));
  const Config config = parse_config(read_manifest(dir_ / "ckpt").config_yaml, "imported");
  EXPECT_EQ(config.data.tokenizer, dir_ / "hf");
  EXPECT_EQ(config.model, hugging_face_model("llama").config);
  expect_code(0, {"export", dir_ / "ckpt", dir_ / "out"}, "tokenizer    tokenizer.model, tokenizer_config.json");
  EXPECT_EQ(read_file(dir_ / "out/tokenizer.model"), read_file(dir_ / "hf/tokenizer.model"));
  const auto json = nlohmann::json::parse(read_file(dir_ / "out/config.json"));
  EXPECT_EQ(json["eos_token_id"], 2);
  fs::remove_all(dir_ / "hf");
  expect_code(0, {"export", dir_ / "ckpt", dir_ / "without"}, "tokenizer    none found at " + (dir_ / "hf"));
}

// The comparison that ends a conversion sees one wrong weight.
TEST(LogitCheckTest, SeesADifferenceAndLeavesOutWhatIsTooLarge) {
  const ModelConfig config = hugging_face_model("llama").config;
  const auto load = [](Stream& stream, Transformer& model) { model.initialize(stream, 5); };
  const auto other = [](Stream& stream, Transformer& model) {
    model.initialize(stream, 5);
    model.buckets().back()->value().data<float>()[3] += 0.01f;
  };
  const LogitCheck same = check_logits(config, load, load, /*round_a=*/false);
  EXPECT_TRUE(same.passed());
  EXPECT_EQ(same.num_tokens, 64);
  EXPECT_EQ(same.largest, 0);
  const LogitCheck different = check_logits(config, load, other, /*round_a=*/false);
  EXPECT_FALSE(different.passed());
  EXPECT_GT(different.relative, 1e-4);
  EXPECT_CONTAINS(different.str(), "largest difference");
  EXPECT_FALSE(check_logits(config, load, load, /*round_a=*/true).largest == 0);

  ModelConfig huge = config;
  huge.num_layers = 1'000'000;
  huge.hidden_size = 100'000;
  const auto never = [](Stream&, Transformer&) { FAIL() << "it was built"; };
  const LogitCheck none = check_logits(huge, never, never, /*round_a=*/false);
  EXPECT_TRUE(none.passed());
  EXPECT_CONTAINS(none.str(), "not compared: the model takes");
}

}  // namespace
}  // namespace trireme
