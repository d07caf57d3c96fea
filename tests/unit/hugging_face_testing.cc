#include "tests/unit/hugging_face_testing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>

#include "checkpoint/hashed_file.h"
#include "core/config/hf_config.h"
#include "core/config/hf_config_writer.h"
#include "core/tensor/dtype.h"
#include "models/transformer.h"
#include "tests/unit/data_testing.h"

namespace fs = std::filesystem;

namespace trireme::testing {

namespace {

ModelConfig gpt2(bool tied) {
  return {.family = ModelFamily::gpt2,
          .hidden_size = 21,
          .num_layers = 2,
          .num_heads = 3,
          .num_kv_heads = 3,
          .head_dim = 7,
          .ffn_size = tied ? 84 : 37,
          .vocab_size = 41,
          .max_positions = 19,
          .norm = NormKind::layer,
          .norm_eps = 1e-5,
          .activation = tied ? Activation::gelu_tanh : Activation::gelu_erf,
          .rope = {.type = RopeType::none},
          .tie_embeddings = tied,
          .attention_bias = true};
}

ModelConfig decoder(ModelFamily family, bool tied) {
  return {.family = family,
          .hidden_size = 26,
          .num_layers = 3,
          .num_heads = 5,
          .num_kv_heads = 1,
          .head_dim = 6,
          .ffn_size = 33,
          .vocab_size = 47,
          .max_positions = 64,
          .norm_eps = 1e-5,
          .rope = {.theta = 5e5},
          .tie_embeddings = tied,
          .attention_bias = family == ModelFamily::qwen2,
          .qk_norm = family == ModelFamily::qwen3};
}

ModelConfig with_experts(ModelFamily family) {
  ModelConfig m = family_defaults(family);
  const ModelConfig sizes = decoder(family, false);
  m.hidden_size = sizes.hidden_size;
  m.num_layers = sizes.num_layers;
  m.num_heads = sizes.num_heads;
  m.num_kv_heads = sizes.num_kv_heads;
  m.head_dim = sizes.head_dim;
  m.ffn_size = sizes.ffn_size;
  m.vocab_size = sizes.vocab_size;
  m.max_positions = sizes.max_positions;
  ExpertsConfig& e = m.experts;
  e.num_experts = 4;
  e.top_k = 2;
  e.ffn_size = family == ModelFamily::mixtral ? m.ffn_size : 9;
  if (family == ModelFamily::qwen2_moe) {
    e.shared_ffn_size = 11;
    e.period = 2;
  }
  if (family == ModelFamily::qwen3_moe) e.dense_layers = {1};
  const bool v3 = family == ModelFamily::deepseek_v3;
  if (!v3 && family != ModelFamily::deepseek_v2) return m;
  m.latent = {.q_rank = v3 ? 7 : 0, .kv_rank = 5, .nope_dim = 6, .rope_dim = 4, .v_dim = 3};
  m.num_kv_heads = m.num_heads;
  m.head_dim = 10;
  e.shared_ffn_size = v3 ? 18 : 9;
  e.num_dense_first = 1;
  if (v3) e.num_groups = 2;
  return m;
}

std::vector<std::byte> random_bytes(const TensorSpec& spec, Filling filling, std::mt19937_64& random) {
  std::vector<std::byte> bytes(static_cast<size_t>(spec.bytes()));
  if (filling == Filling::zeros) return bytes;
  if (filling == Filling::bits) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
  }
  std::normal_distribution<float> normal(0.0f, 0.1f);
  for (int64_t i = 0; i < spec.numel(); ++i) {
    const float value = normal(random);
    const bf16 narrow(value);
    if (spec.dtype == FileDType::f32) std::memcpy(bytes.data() + 4 * i, &value, 4);
    if (spec.dtype == FileDType::bf16) std::memcpy(bytes.data() + 2 * i, &narrow.bits, 2);
  }
  return bytes;
}

void write_index(const std::string& dir, const std::map<std::string, std::string>& files) {
  std::string text = "{\"metadata\": {\"total_size\": 0}, \"weight_map\": {";
  for (const auto& [name, file] : files) text += (text.back() == '{' ? "\"" : ", \"") + name + "\": \"" + file + "\"";
  write_file(dir + "/model.safetensors.index.json", text + "}}");
}

// Halves boxes at random places until each is small.
void cut(const Box& box, std::mt19937_64& random, std::vector<Box>& out) {
  const int dim = static_cast<int>(random() % static_cast<uint64_t>(box.size.ndim()));
  if (box.size[dim] < 2 || random() % 4 == 0) return out.push_back(box);
  const int64_t at = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(box.size[dim] - 1));
  const auto part = [&](int64_t from, int64_t size) {
    std::vector<int64_t> begin(box.begin.dims().begin(), box.begin.dims().end());
    std::vector<int64_t> sizes(box.size.dims().begin(), box.size.dims().end());
    begin[static_cast<size_t>(dim)] += from;
    sizes[static_cast<size_t>(dim)] = size;
    return Box{Shape(std::span<const int64_t>(begin)), Shape(std::span<const int64_t>(sizes))};
  };
  cut(part(0, at), random, out);
  cut(part(at, box.size[dim] - at), random, out);
}

}  // namespace

std::vector<HuggingFaceModel> hugging_face_models() {
  ModelConfig llama3 = decoder(ModelFamily::llama, false);
  llama3.num_kv_heads = 5;
  llama3.rope = {RopeType::llama3, 1e4, 8.0, 1.0, 4.0, 32};
  ModelConfig linear = decoder(ModelFamily::llama, true);
  linear.rope = {.type = RopeType::linear, .theta = 1e4, .factor = 2.5};
  ModelConfig yarn = decoder(ModelFamily::qwen3, true);
  yarn.rope = {.type = RopeType::yarn, .factor = 2.5, .original_max_position_embeddings = 32};
  yarn.rope.truncate = false;
  yarn.rope.attention_factor = 1.0;
  ModelConfig deepseek = with_experts(ModelFamily::deepseek_v3);
  deepseek.rope = {.type = RopeType::yarn, .theta = 1e4, .factor = 40.0, .original_max_position_embeddings = 16};
  deepseek.rope.beta_fast = 30.0;
  deepseek.rope.beta_slow = 2.0;
  deepseek.rope.mscale = 1.5;
  deepseek.rope.mscale_all_dim = 0.5;
  return {{"gpt2", gpt2(true)},
          {"gpt2_untied", gpt2(false)},
          {"llama", decoder(ModelFamily::llama, false)},
          {"llama_llama3", llama3},
          {"llama_linear_tied", linear},
          {"qwen2", decoder(ModelFamily::qwen2, false)},
          {"qwen2_tied", decoder(ModelFamily::qwen2, true)},
          {"qwen3", decoder(ModelFamily::qwen3, false)},
          {"qwen3_tied", yarn},
          {"mixtral", with_experts(ModelFamily::mixtral)},
          {"qwen2_moe", with_experts(ModelFamily::qwen2_moe)},
          {"qwen3_moe", with_experts(ModelFamily::qwen3_moe)},
          {"deepseek_v2", with_experts(ModelFamily::deepseek_v2)},
          {"deepseek_v3", deepseek}};
}

HuggingFaceModel hugging_face_model(const std::string& name) {
  for (HuggingFaceModel& model : hugging_face_models()) {
    if (model.name == name) return model;
  }
  ADD_FAILURE() << "no model " << name;
  return {};
}

void write_hugging_face(const std::string& dir, const ModelConfig& config, StoredAs dtype, Filling filling,
                        int shards) {
  fs::create_directories(dir);
  write_file(dir + "/config.json", hf_config_json(config, {}));
  std::vector<TensorSpec> specs;
  const NameMap map = hugging_face_names(config);
  for (const NameMapEntry& entry : map.entries) {
    if (entry.out_begin != 0) continue;
    const bool narrow =
        !entry.is_buffer && (dtype == StoredAs::bf16 || (dtype == StoredAs::mixed && entry.hf_shape.ndim() == 2));
    const auto dims = entry.hf_shape.dims();
    specs.push_back({entry.hf_name, narrow ? FileDType::bf16 : FileDType::f32, {dims.begin(), dims.end()}});
  }
  std::mt19937_64 random(specs.size());
  std::map<std::string, std::string> files;
  for (int shard = 0; shard < shards; ++shard) {
    const std::string name = shards == 1 ? "model.safetensors" : "part" + std::to_string(shard) + ".safetensors";
    const auto n = specs.size();
    const auto s = static_cast<size_t>(shard);
    const auto k = static_cast<size_t>(shards);
    const std::vector<TensorSpec> own(specs.begin() + static_cast<std::ptrdiff_t>(n * s / k),
                                      specs.begin() + static_cast<std::ptrdiff_t>(n * (s + 1) / k));
    SafetensorsWriter writer(dir + "/" + name, own);
    for (const TensorSpec& spec : own) {
      writer.write(spec.name, random_bytes(spec, filling, random));
      files[spec.name] = name;
    }
    writer.finish();
  }
  if (shards > 1) write_index(dir, files);
}

void scatter_checkpoint(const CheckpointReader& from, const std::string& dir, uint64_t seed) {
  fs::create_directories(dir);
  std::mt19937_64 random(seed);
  Manifest manifest = from.manifest();
  manifest.files.clear();
  manifest.layout = "scattered";
  std::vector<std::unique_ptr<HashedFile>> files;
  std::vector<int64_t> ends(3, 0);
  for (size_t f = 0; f < ends.size(); ++f) {
    files.push_back(std::make_unique<HashedFile>(local_files(), dir + "/part" + std::to_string(f)));
  }
  for (StoredTensor& tensor : manifest.tensors) {
    std::vector<Box> boxes;
    cut(Box::whole(tensor.shape), random, boxes);
    std::shuffle(boxes.begin(), boxes.end(), random);
    tensor.boxes.clear();
    for (const Box& box : boxes) {
      std::vector<std::byte> bytes(static_cast<size_t>(box.numel() * file_dtype_bytes(tensor.dtype)));
      from.read_raw(from.tensor(tensor.name), box, bytes);
      const size_t f = random() % ends.size();
      files[f]->append(bytes);
      tensor.boxes.push_back({static_cast<int64_t>(f), ends[f], box});
      ends[f] += std::ssize(bytes);
    }
  }
  for (const auto& file : files) manifest.files.push_back(file->finish());
  write_manifest(local_files(), dir, manifest);
}

void expect_same_tensors(const std::string& path, const std::string& expected) {
  const SafetensorsReader found(path);
  const SafetensorsReader reference(expected);
  ASSERT_EQ(found.names(), reference.names());
  for (const std::string& name : reference.names()) {
    EXPECT_EQ(found.spec(name).dtype, reference.spec(name).dtype) << name;
    ASSERT_EQ(found.spec(name).shape, reference.spec(name).shape) << name;
    const auto a = found.bytes(name);
    const auto b = reference.bytes(name);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name;
  }
}

}  // namespace trireme::testing
