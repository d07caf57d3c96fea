// Weights from and to Hugging Face directories: every family, dtypes, shards, damage.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/hugging_face_export.h"
#include "checkpoint/hugging_face_import.h"
#include "checkpoint/output_directory.h"
#include "core/config/hf_config_writer.h"
#include "core/config/load.h"
#include "core/tensor/dtype.h"
#include "models/transformer.h"
#include "tests/unit/data_testing.h"
#include "tests/unit/hugging_face_testing.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::expect_same_tensors;
using testing::Filling;
using testing::hugging_face_model;
using testing::message_of;
using testing::read_file;
using testing::StoredAs;
using testing::TempDir;
using testing::write_file;
using testing::write_hugging_face;

Manifest import_to(const std::string& hf, const ModelConfig& config, const std::string& out,
                   ImportOptions options = {}) {
  fs::create_directories(out);
  return import_hugging_face(local_files(), SafetensorsReader(hf), hugging_face_names(config), model_parameters(config),
                             options, out);
}

ExportedWeights export_to(const std::string& checkpoint, const ModelConfig& config, const std::string& out,
                          const ExportOptions& options = {}) {
  fs::create_directories(out);
  return export_hugging_face(local_files(), CheckpointReader(checkpoint), hugging_face_names(config), options, out);
}

std::vector<float> floats(const CheckpointReader& reader, const std::string& name) {
  const StoredTensor& tensor = reader.tensor(name);
  std::vector<float> values(static_cast<size_t>(tensor.shape.numel()));
  reader.read(tensor, Box::whole(tensor.shape), std::span<float>(values));
  return values;
}

std::vector<float> floats(const SafetensorsReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.spec(name).numel()));
  reader.read(name, 0, std::span<float>(values));
  return values;
}

struct RoundTripCase {
  std::string model;
  StoredAs dtype;
};

class RoundTrip : public ::testing::TestWithParam<RoundTripCase> {};

// Any bits, through a checkpoint of several files and one cut into boxes, in pieces that end anywhere.
TEST_P(RoundTrip, IsBitEqual) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model(GetParam().model).config;
  write_hugging_face(dir / "hf", config, GetParam().dtype, Filling::bits, /*shards=*/3);
  const Manifest manifest = import_to(dir / "hf", config, dir / "ckpt", {"text", 7000, /*piece_bytes=*/52});
  EXPECT_GT(manifest.files.size(), 2u);
  EXPECT_EQ(manifest.tensors.size(), model_parameters(config).size());
  EXPECT_EQ(manifest.step, 0);
  EXPECT_EQ(CheckpointReader::verify(dir / "ckpt"), std::vector<std::string>{});
  EXPECT_EQ(read_manifest(dir / "ckpt").config_yaml, "text");

  const ExportedWeights whole = export_to(dir / "ckpt", config, dir / "one");
  EXPECT_EQ(whole.files, std::vector<std::string>{"model.safetensors"});
  expect_same_tensors(dir / "one", dir / "hf");

  testing::scatter_checkpoint(CheckpointReader(dir / "ckpt"), dir / "scattered", 5);
  ExportOptions options;
  options.max_shard_bytes = 5000;
  options.piece_bytes = 76;
  const ExportedWeights shards = export_to(dir / "scattered", config, dir / "many", options);
  EXPECT_GT(shards.files.size(), 2u);
  expect_same_tensors(dir / "many", dir / "hf");
}

std::vector<RoundTripCase> round_trips() {
  std::vector<RoundTripCase> cases;
  for (const auto& model : testing::hugging_face_models()) {
    for (const StoredAs dtype : {StoredAs::f32, StoredAs::bf16, StoredAs::mixed}) cases.push_back({model.name, dtype});
  }
  return cases;
}

std::string round_trip_name(const ::testing::TestParamInfo<RoundTripCase>& test) {
  const StoredAs dtype = test.param.dtype;
  return test.param.model + (dtype == StoredAs::f32 ? "_f32" : dtype == StoredAs::bf16 ? "_bf16" : "_mixed");
}
INSTANTIATE_TEST_SUITE_P(HuggingFace, RoundTrip, ::testing::ValuesIn(round_trips()), round_trip_name);

// Where every element of GPT-2's joined, turned tensors comes to lie, written out.
TEST(HuggingFaceImport, TakesGpt2Apart) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model("gpt2").config;
  write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::numbers);
  import_to(dir / "hf", config, dir / "ckpt");
  const SafetensorsReader theirs(dir / "hf");
  const CheckpointReader ours(dir / "ckpt");
  const int64_t c = config.hidden_size;
  const std::vector<float> joined = floats(theirs, "transformer.h.1.attn.c_attn.weight");  // [C, 3·C]
  const std::vector<float> bias = floats(theirs, "transformer.h.1.attn.c_attn.bias");      // [3·C]
  const char* names[] = {"q", "k", "v"};
  for (int64_t part = 0; part < 3; ++part) {
    const std::string name = std::string("h.1.attn.") + names[part];
    const std::vector<float> weight = floats(ours, name + ".weight");  // [C, C]
    for (int64_t o = 0; o < c; ++o) {
      EXPECT_EQ(floats(ours, name + ".bias")[static_cast<size_t>(o)], bias[static_cast<size_t>(part * c + o)]);
      for (int64_t i = 0; i < c; ++i) {
        ASSERT_EQ(weight[static_cast<size_t>(o * c + i)], joined[static_cast<size_t>(i * 3 * c + part * c + o)]);
      }
    }
  }
}

TEST(HuggingFaceImport, ReadsHalfAndNamesWithoutThePrefix) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model("gpt2").config;
  write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::numbers);
  // The same tensors as the older files of GPT-2 have them: no prefix, a buffer besides, F16.
  const SafetensorsReader reader(dir / "hf");
  std::vector<TensorSpec> specs = {{"h.0.attn.bias", FileDType::u8, {1, 1, 3, 3}}};
  for (const std::string& name : reader.names()) {
    specs.push_back({name.substr(name.find('.') + 1), FileDType::f16, reader.spec(name).shape});
  }
  SafetensorsWriter writer(dir / "half.safetensors", specs);
  writer.write("h.0.attn.bias", std::vector<std::byte>(9));
  for (size_t s = 1; s < specs.size(); ++s) {
    std::vector<uint16_t> halves(static_cast<size_t>(specs[s].numel()));
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(0x3C00 + i % 512);  // 1 … 1.5
    writer.write_values<uint16_t>(specs[s].name, halves);
  }
  writer.finish();
  import_to(dir / "half.safetensors", config, dir / "ckpt");
  const CheckpointReader ours(dir / "ckpt");
  EXPECT_EQ(ours.tensor("wte.weight").dtype, FileDType::f32);
  const std::vector<float> table = floats(ours, "wte.weight");
  for (size_t i = 0; i < table.size(); ++i) ASSERT_EQ(table[i], 1.0f + static_cast<float>(i % 512) / 1024.0f);
}

// `balance: bias` may begin with weights that know no selection bias; DeepSeek-V3's are not whole without it.
TEST(HuggingFaceImport, SelectionBiasesThatAFileLacks) {
  const TempDir dir;
  for (const char* name : {"mixtral", "deepseek_v3"}) {
    ModelConfig config = hugging_face_model(name).config;
    config.experts.score_bias = false;
    write_hugging_face(dir / name, config, StoredAs::f32, Filling::numbers);
    config.experts.score_bias = true;
    const std::string out = dir / (std::string(name) + "-ckpt");
    if (config.family == ModelFamily::deepseek_v3) {
      EXPECT_CONTAINS(message_of<DataError>([&] { import_to(dir / name, config, out); }),
                      "there is no tensor 'model.layers.1.mlp.gate.e_score_correction_bias'");
    } else {
      import_to(dir / name, config, out);
      EXPECT_EQ(floats(CheckpointReader(out), "model.layers.1.block_sparse_moe.gate.e_score_correction_bias"),
                std::vector<float>(4, 0.0f));
    }
  }
}

TEST(HuggingFaceImport, NamesWhatIsWrong) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model("llama").config;
  write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::numbers, 2);
  ModelConfig other = config;
  const auto message = [&] { return message_of<DataError>([&] { import_to(dir / "hf", other, dir / "out"); }); };
  other.ffn_size += 1;
  EXPECT_CONTAINS(message(), "tensor model.layers.0.mlp.gate_proj.weight has another shape");
  EXPECT_CONTAINS(message(), "[34, 26]");
  EXPECT_CONTAINS(message(), "part0.safetensors");
  other = config;
  other.num_layers += 1;
  EXPECT_CONTAINS(message(), "there is no tensor 'model.layers.3.");
  other = config;
  other.num_layers -= 1;
  EXPECT_CONTAINS(message(), "model.layers.2.");
  EXPECT_CONTAINS(message(), "is none of this model's");
  EXPECT_CONTAINS(message(), "part1.safetensors");
  EXPECT_TRUE(fs::is_empty(dir / "out"));

  // A dtype that has no floats.
  const SafetensorsReader reader(dir / "hf");
  std::vector<TensorSpec> specs;
  for (const std::string& name : reader.names()) {
    specs.push_back({name, name == "model.norm.weight" ? FileDType::i32 : FileDType::f32, reader.spec(name).shape});
  }
  SafetensorsWriter writer(dir / "ints.safetensors", specs);
  for (const TensorSpec& spec : specs) writer.write(spec.name, reader.bytes(spec.name));
  writer.finish();
  EXPECT_CONTAINS(message_of<DataError>([&] { import_to(dir / "ints.safetensors", config, dir / "out"); }),
                  "model.norm.weight");
}

TEST(HuggingFaceExport, RoundsToBf16AndWidensIt) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model("gpt2_untied").config;
  write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::numbers);
  import_to(dir / "hf", config, dir / "ckpt");
  ExportOptions options;
  options.dtype = FileDType::bf16;
  EXPECT_EQ(export_to(dir / "ckpt", config, dir / "bf16", options).dtype, FileDType::bf16);
  const SafetensorsReader wide(dir / "hf");
  const SafetensorsReader narrow(dir / "bf16");
  ASSERT_EQ(wide.names(), narrow.names());
  for (const std::string& name : wide.names()) {
    EXPECT_EQ(narrow.spec(name).dtype, FileDType::bf16);
    const std::vector<float> a = floats(wide, name);
    const std::vector<float> b = floats(narrow, name);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_LE(std::fabs(a[i] - b[i]), std::fabs(a[i]) / 256) << name;
  }
  // Back to fp32: the rounded values, exactly.
  import_to(dir / "bf16", config, dir / "ckpt16");
  options.dtype = FileDType::f32;
  export_to(dir / "ckpt16", config, dir / "f32", options);
  const SafetensorsReader back(dir / "f32");
  for (const std::string& name : back.names()) {
    EXPECT_EQ(back.spec(name).dtype, FileDType::f32);
    EXPECT_EQ(floats(back, name), floats(narrow, name)) << name;
  }
}

TEST(HuggingFaceExport, ShardsAreIndexedAndNoLargerThanAsked) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model("qwen2").config;
  write_hugging_face(dir / "hf", config, StoredAs::bf16, Filling::bits);
  import_to(dir / "hf", config, dir / "ckpt");
  ExportOptions options;
  options.max_shard_bytes = 2000;  // the embedding alone has 2444
  const ExportedWeights weights = export_to(dir / "ckpt", config, dir / "out", options);
  const auto index = nlohmann::json::parse(read_file(dir / "out/model.safetensors.index.json"));
  const size_t n = weights.files.size();
  EXPECT_EQ(index["metadata"]["total_size"], weights.bytes);
  int64_t bytes = 0;
  std::set<std::string> indexed;
  for (size_t i = 0; i < n; ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, n);
    EXPECT_EQ(weights.files[i], name);
    const SafetensorsReader shard(dir / "out/" + name);
    EXPECT_EQ(shard.metadata().at("format"), "pt");  // transformers asks for it
    int64_t in_shard = 0;
    for (const std::string& tensor : shard.names()) {
      EXPECT_EQ(index["weight_map"][tensor], name);
      in_shard += shard.spec(tensor).bytes();
      indexed.insert(tensor);
    }
    EXPECT_TRUE(in_shard <= 2000 || shard.names().size() == 1) << in_shard;
    bytes += in_shard;
  }
  EXPECT_EQ(bytes, weights.bytes);
  EXPECT_EQ(indexed.size(), index["weight_map"].size());
}

TEST(HuggingFaceExport, NamesWhatIsWrong) {
  const TempDir dir;
  const ModelConfig config = hugging_face_model("qwen3").config;
  write_hugging_face(dir / "hf", config, StoredAs::f32, Filling::numbers);
  import_to(dir / "hf", config, dir / "ckpt");
  ModelConfig other = config;
  const auto message = [&] { return message_of<DataError>([&] { export_to(dir / "ckpt", other, dir / "out"); }); };
  other.num_layers += 1;
  EXPECT_CONTAINS(message(), "the checkpoint has no tensor model.layers.3.");
  other.num_layers -= 2;
  EXPECT_CONTAINS(message(), "tensor model.layers.2.");
  EXPECT_CONTAINS(message(), "is none of this model's");
  other = config;
  other.hidden_size += 2;
  EXPECT_CONTAINS(message(), "tensor model.embed_tokens.weight has another shape");
  EXPECT_CONTAINS(message(), "[47, 28]");
  // A flipped bit anywhere is found before it is written.
  const std::string file = dir / "ckpt/weights-00000.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] ^= 1;
  write_file(file, bytes);
  other = config;
  EXPECT_CONTAINS(message(), "weights-00000.safetensors, chunk 0");
}

TEST(OutputDirectory, AppearsWholeOrNotAtAll) {
  const TempDir dir;
  const std::string path = dir / "a/b/out";
  {
    OutputDirectory out(local_files(), path + "/");
    out.write_text("x", "text");
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_TRUE(fs::is_empty(dir / "a/b"));
  fs::create_directories(path);  // an empty one is fine
  {
    OutputDirectory out(local_files(), path);
    out.write_text("x", "text");
    out.commit();
  }
  EXPECT_EQ(read_file(path + "/x"), "text");
  EXPECT_FALSE(fs::exists(path + ".tmp"));
  EXPECT_CONTAINS(message_of<ConfigError>([&] { OutputDirectory(local_files(), path); }), "not empty");
  EXPECT_CONTAINS(message_of<ConfigError>([&] { OutputDirectory(local_files(), path + "/x"); }), "there already");
  EXPECT_EQ(read_file(path + "/x"), "text");
}

}  // namespace
}  // namespace trireme
