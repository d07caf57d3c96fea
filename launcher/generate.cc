#include "launcher/generate.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "checkpoint/directory.h"
#include "checkpoint/hugging_face.h"
#include "checkpoint/load.h"
#include "core/config/load.h"
#include "core/data/growing_text.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/ops/elementwise.h"
#include "core/random/philox.h"
#include "launcher/train_step.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

struct LoadedModel {
  std::unique_ptr<Transformer> model;
  std::unique_ptr<Tokenizer> tokenizer;
  int64_t context = 0;  // longest sequence that the model sees
};

LoadedModel load_from_checkpoint(Stream& stream, const std::string& path) {
  const CheckpointReader reader(path);
  const Config config = parse_config(reader.manifest().config_yaml, path + "/manifest.json");
  LoadedModel loaded;
  loaded.context = config.data.sequence_length;
  loaded.model = std::make_unique<Transformer>(
      stream, config.model, Transformer::Options{.max_sequence = loaded.context, .with_optimizer_states = false});
  load_checkpoint(reader, stream, model_parameters(config.model), loaded.model->buckets(), StateParts::weights);
  loaded.tokenizer = make_tokenizer(config.data.tokenizer);
  return loaded;
}

LoadedModel load_from_hugging_face(Stream& stream, const std::string& path) {
  const ModelConfig config = load_hf_model(path);
  LoadedModel loaded;
  loaded.context = std::min<int64_t>(config.max_positions, 4096);
  loaded.model = std::make_unique<Transformer>(
      stream, config, Transformer::Options{.max_sequence = loaded.context, .with_optimizer_states = false});
  load_hugging_face(SafetensorsReader(path), hugging_face_names(config), stream, loaded.model->buckets());
  const bool has_tokenizer =
      fs::exists(fs::path(path) / "tokenizer.model") || fs::exists(fs::path(path) / "tokenizer.json");
  if (!has_tokenizer && config.vocab_size != 256) {
    throw DataError(
        {.what = "the directory has no tokenizer", .expected = "tokenizer.model or tokenizer.json", .where = path});
  }
  loaded.tokenizer = make_tokenizer(has_tokenizer ? path : "bytes");
  return loaded;
}

LoadedModel load_model(Stream& stream, const std::string& path) {
  if (is_checkpoint(path)) return load_from_checkpoint(stream, path);
  if (const auto latest = latest_checkpoint(path)) return load_from_checkpoint(stream, *latest);
  if (fs::exists(fs::path(path) / "config.json")) return load_from_hugging_face(stream, path);
  throw DataError({.what = "nothing to generate from",
                   .expected = "a checkpoint, a run directory with one, or a Hugging Face directory",
                   .found = fs::exists(path) ? "none of them" : "no such directory",
                   .where = path});
}

// Logits of the token that follows `ids`.
std::vector<float> next_logits(Stream& stream, const LoadedModel& loaded, const std::vector<int32_t>& ids) {
  const int64_t length = std::min<int64_t>(static_cast<int64_t>(ids.size()), loaded.context);
  const std::vector<int32_t> window(ids.end() - length, ids.end());
  std::vector<int32_t> positions(static_cast<size_t>(length));
  std::iota(positions.begin(), positions.end(), 0);
  HostMicrobatch host{1, length, window.data(), window.data(), positions.data(), nullptr};
  return last_logits(stream, *loaded.model, host);
}

}  // namespace

int64_t sample_token(const float* logits, int64_t n, double temperature, int64_t top_k, double uniform) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  const int64_t keep = temperature == 0.0 ? 1 : top_k > 0 ? std::min(top_k, n) : n;
  // Ties go to the lower id, so that a draw does not depend on the library's sort.
  std::partial_sort(order.begin(), order.begin() + keep, order.end(),
                    [&](int64_t a, int64_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  if (keep == 1) return order.front();
  std::vector<double> weight(static_cast<size_t>(keep));
  double total = 0;
  for (size_t i = 0; i < weight.size(); ++i) {
    weight[i] = std::exp((static_cast<double>(logits[order[i]]) - static_cast<double>(logits[order[0]])) / temperature);
    total += weight[i];
  }
  double rest = uniform * total;
  for (size_t i = 0; i < weight.size(); ++i) {
    rest -= weight[i];
    if (rest < 0) return order[i];
  }
  return order[static_cast<size_t>(keep - 1)];
}

void generate(Stream& stream, const GenerateOptions& options, const std::function<void(const std::string&)>& emit) {
  const LoadedModel loaded = load_model(stream, options.path);
  const int64_t vocab = loaded.model->config().vocab_size;
  std::vector<int32_t> ids;
  loaded.tokenizer->encode(options.prompt, ids);
  if (ids.empty()) {
    throw ConfigError({.what = "the prompt is empty", .expected = "at least one token", .where = "--prompt"});
  }
  const int32_t largest = *std::max_element(ids.begin(), ids.end());
  if (largest >= vocab) {
    throw DataError({.what = "the tokenizer doesn't fit the model",
                     .expected = "ids below the model's vocabulary of " + std::to_string(vocab),
                     .found = "id " + std::to_string(largest) + " in the prompt",
                     .where = loaded.tokenizer->name()});
  }
  const uint64_t key = random_key(options.seed, "generate");
  GrowingText text(*loaded.tokenizer);
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    const std::vector<float> logits = next_logits(stream, loaded, ids);
    const PhiloxBlock random = philox4x32(key, static_cast<uint64_t>(i));
    const int64_t next = sample_token(logits.data(), vocab, options.temperature, options.top_k,
                                      static_cast<double>(uniform_from_bits(random.x[0])));
    if (loaded.tokenizer->end_of_document() == static_cast<int32_t>(next)) break;
    ids.push_back(static_cast<int32_t>(next));
    emit(text.add(static_cast<int32_t>(next)));
  }
  emit(text.finish());
}

}  // namespace trireme
