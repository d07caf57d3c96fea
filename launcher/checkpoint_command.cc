// `trireme checkpoint …`: looks at checkpoints and converts them. Commands of one process.
#include <cstdio>
#include <filesystem>

#include "checkpoint/checkpoint_diff.h"
#include "checkpoint/directory.h"
#include "checkpoint/hugging_face.h"
#include "checkpoint/hugging_face_export.h"
#include "checkpoint/hugging_face_import.h"
#include "checkpoint/load.h"
#include "checkpoint/output_directory.h"
#include "core/config/hf_config_writer.h"
#include "core/config/load.h"
#include "core/config/units.h"
#include "core/error.h"
#include "core/metrics/format.h"
#include "launcher/checkpoint_table.h"
#include "launcher/commands.h"
#include "launcher/logit_check.h"
#include "launcher/tokenizer_files.h"
#include "models/transformer.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

void print(const std::string& text) { std::fputs(text.c_str(), stdout); }

void row(const char* name, const std::string& value) { std::printf("  %-12s %s\n", name, value.c_str()); }

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

[[noreturn]] void no_checkpoint(const std::string& path) {
  std::error_code ignored;
  throw DataError({.what = "there is no checkpoint",
                   .expected = "a checkpoint's directory, or a run directory with a valid one",
                   .found = fs::exists(path, ignored) ? "neither" : "no such directory",
                   .where = path});
}

// The checkpoint that `path` is, or the newest valid one of that run directory.
std::string find_checkpoint(const std::string& path) {
  if (is_checkpoint(path)) return path;
  if (const auto latest = latest_checkpoint(path)) return *latest;
  no_checkpoint(path);
}

// 5GB, 800MB, 2GiB, 123456
int64_t parse_shard_size(const std::string& text) {
  std::optional<int64_t> bytes = parse_bytes(text);
  for (const auto& [suffix, factor] : {std::pair("KB", 1e3), std::pair("MB", 1e6), std::pair("GB", 1e9)}) {
    if (bytes || !text.ends_with(suffix)) continue;
    const auto number = parse_real(text.substr(0, text.size() - 2));
    if (number) bytes = static_cast<int64_t>(*number * factor);
  }
  if (bytes && *bytes > 0) return *bytes;
  throw ConfigError({.what = "--max-shard-size isn't a size",
                     .expected = "a number above 0 with MB, GB, MiB or GiB behind it",
                     .found = text,
                     .hint = "--max-shard-size 5GB"});
}

std::optional<FileDType> parse_dtype(const std::string& text) {
  if (text.empty()) return std::nullopt;
  return text == "bf16" ? FileDType::bf16 : FileDType::f32;
}

std::string dtype_word(FileDType dtype) { return dtype == FileDType::bf16 ? "bfloat16" : "float32"; }

LoadWeights from_checkpoint(const std::string& path) {
  return [path](Stream& stream, Transformer& model) {
    load_checkpoint(CheckpointReader(path), stream, model_parameters(model.config()), model.buckets(),
                    StateParts::weights);
  };
}

LoadWeights from_hugging_face(const std::string& path, const NameMap& map) {
  return [path, map](Stream& stream, Transformer& model) {
    load_hugging_face(SafetensorsReader(path), map, stream, model.buckets());
  };
}

// Prints the comparison; the command's exit code.
int report_logits(const LogitCheck& check) {
  row("logits", check.str());
  if (check.passed()) return static_cast<int>(ExitCode::ok);
  std::fprintf(stderr, "error: the two models differ (expected at most %s of the largest logit, found %s)\n",
               scientific(kLogitTolerance).c_str(), scientific(check.relative).c_str());
  return static_cast<int>(ExitCode::difference);
}

bool contains_bf16(const Manifest& manifest) {
  for (const StoredTensor& tensor : manifest.tensors) {
    if (tensor.dtype == FileDType::bf16) return true;
  }
  return false;
}

// A configuration that `generate` and others can read: the model, the tokenizer, and values for what a file must give.
std::string imported_config(const ModelConfig& model, const std::string& tokenizer) {
  Config config;
  config.run.dir = "imported";
  config.run.steps = 1;
  config.model = model;
  config.data.train = {{.path = "none"}};
  config.data.tokenizer = tokenizer;
  config.data.sequence_length = std::min<int64_t>(model.max_positions, 4096);
  config.batch.global = 1;
  config.batch.micro = 1;
  return dump_config(config);
}

}  // namespace

int checkpoint_inspect_command(const CheckpointInspectArgs& args) {
  const std::string path = find_checkpoint(args.path);
  const Manifest manifest = read_manifest(path);
  print(args.json ? checkpoint_json(path, manifest) : checkpoint_table(path, manifest));
  return 0;
}

int checkpoint_verify_command(const std::string& path) {
  std::vector<std::string> broken;
  std::vector<std::string> checkpoints = {path};
  if (!is_checkpoint(path)) checkpoints = list_checkpoints(path, &broken);
  if (checkpoints.empty() && broken.empty()) no_checkpoint(path);
  for (const std::string& line : broken) print(line + "\n");
  bool whole = broken.empty();
  for (const std::string& checkpoint : checkpoints) {
    const std::vector<std::string> damage = CheckpointReader::verify(checkpoint);
    for (const std::string& line : damage) print(line + "\n");
    whole = whole && damage.empty();
    if (!damage.empty()) continue;
    const Manifest manifest = read_manifest(checkpoint);
    int64_t bytes = 0;
    size_t chunks = 0;
    for (const StoredFile& file : manifest.files) {
      bytes += file.bytes;
      chunks += file.chunk_hashes.size();
    }
    print("OK " + checkpoint + ": step " + std::to_string(manifest.step) + ", " +
          count_text(manifest.tensors.size(), "tensor") + " in " + count_text(manifest.files.size(), "file") + ", " +
          human_bytes(bytes) + " in " + count_text(chunks, "chunk") + "\n");
  }
  return static_cast<int>(whole ? ExitCode::ok : ExitCode::data);
}

int checkpoint_diff_command(const CheckpointDiffArgs& args) {
  const CheckpointReader a(find_checkpoint(args.a));
  const CheckpointReader b(find_checkpoint(args.b));
  print("A " + a.path() + "\nB " + b.path() + "\n");
  const CheckpointDifference difference =
      compare_checkpoints(a, b, args.weights ? StateParts::weights : StateParts::everything);
  print(difference_table(difference, args.rows));
  const bool same = args.tolerance ? difference.within(*args.tolerance) : difference.equal();
  if (same) print(difference.equal() ? "bit-equal\n" : "equal within the tolerance\n");
  return static_cast<int>(same ? ExitCode::ok : ExitCode::difference);
}

int checkpoint_export_command(const CheckpointExportArgs& args) {
  const ExportOptions options{parse_dtype(args.dtype), parse_shard_size(args.max_shard_size)};
  const std::string path = find_checkpoint(args.path);
  const CheckpointReader reader(path);
  const Config config = parse_config(reader.manifest().config_yaml, path + "/manifest.json");
  const NameMap map = hugging_face_names(config.model);

  OutputDirectory out(local_files(), args.out);
  const ExportedWeights weights = export_hugging_face(out.files(), reader, map, options, out.path());
  const std::vector<std::string> tokenizer = copy_tokenizer(config.data.tokenizer, out);
  const HfConfigWords words{dtype_word(weights.dtype), end_of_document(config.data.tokenizer)};
  out.write_text("config.json", hf_config_json(config.model, words));
  out.write_text("generation_config.json", hf_generation_config_json(words));
  out.commit();

  print(path + " -> " + args.out + "\n");
  row("weights", count_text(weights.num_tensors, "tensor") + ", " + dtype_word(weights.dtype) + ", " +
                     human_bytes(weights.bytes) + " in " + count_text(weights.files.size(), "file"));
  row("tokenizer", !tokenizer.empty()                 ? joined(tokenizer)
                   : config.data.tokenizer == "bytes" ? "bytes, which has no files"
                                                      : "none found at " + config.data.tokenizer);
  for (const std::string& key : keys_without_hf_form(config)) {
    row("warning", key + " has no word in config.json; other programs compute another model from these weights");
  }
  const bool rounded = options.dtype == FileDType::bf16;
  return report_logits(
      check_logits(config.model, from_checkpoint(path), from_hugging_face(args.out, map), /*round_a=*/rounded));
}

int checkpoint_import_command(const CheckpointImportArgs& args) {
  const ModelConfig model = load_hf_model(args.path);
  const NameMap map = hugging_face_names(model);
  const bool has_tokenizer =
      fs::exists(fs::path(args.path) / "tokenizer.model") || fs::exists(fs::path(args.path) / "tokenizer.json");
  // Without one, what reads text says that it is missing, rather than taking bytes for ids.
  const std::string tokenizer =
      has_tokenizer || model.vocab_size != 256 ? fs::absolute(args.path).lexically_normal().string() : "bytes";

  OutputDirectory out(local_files(), args.out);
  const Manifest manifest = import_hugging_face(out.files(), SafetensorsReader(args.path), map, model_parameters(model),
                                                {.config_yaml = imported_config(model, tokenizer)}, out.path());
  out.commit();

  int64_t bytes = 0;
  for (const StoredFile& file : manifest.files) bytes += file.bytes;
  print(args.path + " -> " + args.out + "\n");
  row("weights", count_text(manifest.tensors.size(), "tensor") + ", " +
                     (contains_bf16(manifest) ? "bfloat16" : "float32") + ", " + human_bytes(bytes) + " in " +
                     count_text(manifest.files.size(), "file"));
  row("tokenizer", has_tokenizer ? tokenizer : "none");
  return report_logits(
      check_logits(model, from_hugging_face(args.path, map), from_checkpoint(args.out), /*round_a=*/false));
}

}  // namespace trireme
