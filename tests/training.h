// A small training run for tests: data, configuration, and a Trainer on any number of ranks.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/directory.h"
#include "checkpoint/reader.h"
#include "core/config/load.h"
#include "core/formats/megatron.h"
#include "core/metrics/console.h"
#include "core/metrics/log.h"
#include "core/metrics/run_directory.h"
#include "core/random/philox.h"
#include "launcher/trainer.h"
#include "tests/thread_ranks.h"
#include "tests/unit/data_testing.h"

namespace trireme::testing {

// Writes PREFIX.bin and .idx: `num_tokens` tokens below 61 in documents of about 50, with patterns that a model can
// learn.
inline void write_corpus(const std::string& prefix, int64_t num_tokens) {
  MegatronWriter writer(prefix, TokenDType::u16);
  const uint64_t key = random_key(3, "corpus");
  std::vector<int32_t> document;
  int32_t token = 1;
  for (int64_t i = 0; i < num_tokens; ++i) {
    const uint64_t draw = uniform_below(key, static_cast<uint64_t>(i), 10);
    token = static_cast<int32_t>((token * 7 + (draw < 8 ? 3 : static_cast<int32_t>(draw))) % 61);
    document.push_back(token);
    if (draw == 9 && document.size() > 20) {
      writer.append(document);
      writer.end_document();
      document.clear();
    }
  }
  writer.append(document);
  writer.end_document();
  writer.finish();
}

// The YAML of a tiny Llama that trains on DIR/corpus and runs in DIR/run.
inline std::string tiny_yaml(const TempDir& dir, int64_t steps) {
  return "run: {dir: \"" + (dir / "run") + "\", steps: " + std::to_string(steps) +
         ", threads: 1}\n"
         "model: {model_type: llama, hidden_size: 24, num_hidden_layers: 2, num_attention_heads: 3, "
         "num_key_value_heads: 1, intermediate_size: 40, vocab_size: 67, max_position_embeddings: 32}\n"
         "data: {train: [{path: \"" +
         (dir / "corpus") +
         "\"}], sequence_length: 19, valid_fraction: 0.1}\n"
         "batch: {global: 8, micro: 2}\n"
         "optimizer: {lr: 3.0e-3, schedule: {type: cosine, warmup_steps: 2, decay_steps: 50}}\n"
         "precision: {compute: fp32}\n"
         "checkpoint: {every: 0, keep_last: 0}\n";
}

// Trains on `ranks` ranks as threads, silently. What a GPU's library chose by timing lies in the run directory; runs beside
// each other share it, so that their bits can be compared.
inline void train(const Config& config, int ranks, FileSystem& files = local_files()) {
  const std::filesystem::path own = RunDirectory(config.run.dir).gemm_algorithms_file();
  const std::filesystem::path shared = std::filesystem::path(config.run.dir).parent_path() / own.filename();
  if (std::filesystem::exists(shared) && !std::filesystem::exists(own)) {
    std::filesystem::create_directories(own.parent_path());
    std::filesystem::copy_file(shared, own);
  }
  const int null = ::open("/dev/null", O_WRONLY);
  Console console(null, /*terminal=*/false);
  const StopSignal stop;
  run_rank_contexts(config, ranks, [&](RankContext& rank) {
    Logger logger(rank.rank(), console);
    Trainer trainer(rank, config, console, logger, files);
    trainer.run(stop);
  });
  ::close(null);
  constexpr auto kOverwrite = std::filesystem::copy_options::overwrite_existing;
  if (std::filesystem::exists(own)) std::filesystem::copy_file(own, shared, kOverwrite);
}

// A hash of each weight and optimizer state of a checkpoint, whatever files it lies in.
using StateHashes = std::map<std::string, uint64_t>;
inline StateHashes state_hashes(const std::string& checkpoint) {
  const CheckpointReader reader(checkpoint);
  StateHashes hashes;
  for (const StoredTensor& tensor : reader.manifest().tensors) {
    std::vector<std::byte> bytes(static_cast<size_t>(tensor.bytes()));
    reader.read_raw(tensor, Box::whole(tensor.shape), bytes);
    hashes[tensor.name] = hash_bytes(bytes.data(), bytes.size());
  }
  return hashes;
}

}  // namespace trireme::testing
