#include "launcher/probe.h"

#include <algorithm>
#include <numeric>

#include "checkpoint/hugging_face.h"
#include "core/config/load.h"
#include "core/error.h"
#include "core/formats/safetensors.h"
#include "core/ops/elementwise.h"
#include "launcher/rank_model.h"
#include "launcher/step_tokens.h"
#include "optim/learning_rate.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

std::vector<int32_t> read_ids(const SafetensorsReader& reader, const std::string& name,
                              const std::vector<int64_t>& shape, int64_t low, int64_t high, bool allow_ignored) {
  const TensorSpec& spec = reader.spec(name);
  if (spec.shape != shape || spec.dtype != FileDType::i64) {
    throw DataError({.what = "tensor " + name + " of the tokens file has another shape or type",
                     .expected = "I64 " + Shape(std::span<const int64_t>(shape)).str(),
                     .found = file_dtype_name(spec.dtype) + " " + Shape(std::span<const int64_t>(spec.shape)).str(),
                     .where = reader.path()});
  }
  std::vector<int64_t> wide(static_cast<size_t>(spec.numel()));
  reader.read(name, 0, std::span<int64_t>(wide));
  std::vector<int32_t> ids(wide.size());
  for (size_t i = 0; i < wide.size(); ++i) {
    const bool ignored = allow_ignored && wide[i] == -100;
    if (!ignored && (wide[i] < low || wide[i] >= high)) {
      throw DataError({.what = "tensor " + name + " of the tokens file has a value out of range",
                       .expected = std::to_string(low) + " … " + std::to_string(high - 1),
                       .found = std::to_string(wide[i]),
                       .where = reader.path() + ", element " + std::to_string(i)});
    }
    ids[i] = static_cast<int32_t>(wide[i]);
  }
  return ids;
}

// The whole tokens file, checked.
StepTokens read_tokens(const std::string& path, const ModelConfig& model) {
  const SafetensorsReader reader(path);
  StepTokens t;
  const std::vector<int64_t> shape = reader.spec("input_ids").shape;
  if (shape.size() != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1) {
    throw DataError({.what = "input_ids of the tokens file has another shape",
                     .expected = "[steps, B, T]",
                     .found = Shape(std::span<const int64_t>(shape)).str(),
                     .where = path});
  }
  t.steps = shape[0];
  t.batch = shape[1];
  t.sequence = shape[2];
  const int64_t limit = model.rope.type == RopeType::none ? std::min(t.sequence, model.max_positions) : t.sequence;
  if (limit < t.sequence) {
    throw DataError({.what = "the sequences are longer than the model's position table",
                     .expected = "at most " + std::to_string(limit) + " tokens",
                     .found = std::to_string(t.sequence),
                     .where = path});
  }
  t.tokens = read_ids(reader, "input_ids", shape, 0, model.vocab_size, false);
  t.labels = read_ids(reader, "labels", shape, 0, model.vocab_size, true);
  t.has_documents = reader.contains("position_ids");
  if (t.has_documents) {
    t.positions = read_ids(reader, "position_ids", shape, 0, t.sequence, false);
  } else {
    t.positions.resize(t.tokens.size());
    for (size_t i = 0; i < t.positions.size(); ++i)
      t.positions[i] = static_cast<int32_t>(i % static_cast<size_t>(t.sequence));
  }
  t.document_start.resize(t.tokens.size());
  for (size_t i = 0; i < t.tokens.size(); ++i) {
    const int32_t place = static_cast<int32_t>(i % static_cast<size_t>(t.sequence));
    t.document_start[i] = place == 0 || t.positions[i] == 0 ? place : t.document_start[i - 1];
  }
  return t;
}

// Logits of the first step, gathered: f32 [B, T, V] on every rank's host. Each logit lies on one pipeline stage and one
// tensor rank; the others add zeros.
std::vector<float> gather_logits(RankContext& rank, RankModel& model, const StepTokens& t, int64_t micro) {
  const int64_t vocab = model.model.config().vocab_size;
  std::vector<float> all(static_cast<size_t>(t.batch * t.sequence * vocab), 0.0f);
  const std::vector<HostMicrobatch> microbatches = microbatches_of(t, 0, micro, rank.mesh());
  const std::vector<Tensor> parts = model.step.logits(microbatches);
  std::vector<float> part;
  for (size_t i = 0; i < parts.size(); ++i) {
    part.resize(static_cast<size_t>(parts[i].numel()));
    ops::copy_to_host(rank.stream(), parts[i], part.data());
    rank.stream().synchronize();
    const ops::VocabularyPart rows = model.model.head()->part();
    const int64_t first_token = microbatches[i].tokens - t.tokens.data();
    for (int64_t n = 0; n < parts[i].dim(0); ++n) {
      const float* from = part.data() + n * parts[i].dim(1);
      std::copy(from, from + rows.size, all.data() + (first_token + n) * vocab + rows.first);
    }
  }
  const Tensor sum = Tensor::borrow(all.data(), {std::ssize(all)}, DType::f32);
  rank.world().all_reduce(sum, ReduceOp::sum, rank.host_stream())->wait(rank.host_stream());
  return all;
}

}  // namespace

Config probe_config(const ProbeOptions& options, const std::vector<std::string>& sets) {
  const SafetensorsReader reader(options.tokens);
  const std::vector<int64_t> shape = reader.spec("input_ids").shape;
  const int64_t batch = shape.size() == 3 ? shape[1] : 1;
  const int64_t sequence = shape.size() == 3 ? shape[2] : 1;
  // The sections that a probe doesn't need get placeholders, so that the one parser checks everything else.
  const std::string text = "run: {dir: probe, steps: 1}\nmodel: {config: \"" + options.hf_dir +
                           "\"}\ndata: {train: [{path: none}], sequence_length: " + std::to_string(sequence) +
                           "}\nbatch: {global: " + std::to_string(batch) + ", micro: " + std::to_string(batch) +
                           "}\noptimizer: {schedule: {type: constant}}\nprecision: {compute: fp32}\n";
  Config config = parse_config(text, "probe", sets);
  // The loss is that of the labels alone, of every token.
  const auto is_given = [&](const std::string& key) {
    return std::any_of(sets.begin(), sets.end(), [&](const std::string& set) {
      return set.starts_with("moe." + key + "=") || (set.starts_with("moe=") && set.find(key) != std::string::npos);
    });
  };
  if (!is_given("balance")) config.moe.balance = MoeBalance::none;
  if (!is_given("z_loss_coef")) config.moe.z_loss_coef = 0;
  if (!is_given("capacity_factor")) config.moe.capacity_factor.reset();
  return config;
}

void probe(RankContext& rank, const Config& config, const ProbeOptions& options) {
  const StepTokens tokens = read_tokens(options.tokens, config.model);
  const int64_t steps = options.steps > 0 ? std::min(options.steps, tokens.steps) : tokens.steps;
  const int64_t micro = std::min(config.batch.micro, tokens.batch / rank.mesh().data_degree());
  resolve_microbatches(tokens.batch, std::max<int64_t>(1, micro), rank.mesh().data_degree());

  RankModel model(rank, config);
  const NameMap names = hugging_face_names(config.model);
  load_hugging_face(SafetensorsReader(options.hf_dir), names, rank.stream(), model.model.buckets());
  model.step.weights_changed();

  std::vector<TensorSpec> specs = {{"loss", FileDType::f64, {steps}}, {"grad_norm", FileDType::f64, {steps}}};
  const bool predicts = config.model.num_predictors > 0;
  if (predicts) specs.push_back({"prediction_loss", FileDType::f64, {steps}});
  if (options.logits) {
    specs.push_back({"logits", FileDType::f32, {tokens.batch, tokens.sequence, config.model.vocab_size}});
  }
  const std::pair<const char*, Bucket::Buffer> kinds[] = {{"grad.", Bucket::Buffer::gradient},
                                                          {"weight.", Bucket::Buffer::master}};
  for (const auto& [prefix, buffer] : kinds) {
    for (TensorSpec& spec : hugging_face_specs(names, model.state, buffer, prefix)) specs.push_back(std::move(spec));
  }
  std::unique_ptr<SafetensorsWriter> writer;
  if (rank.is_main()) writer = std::make_unique<SafetensorsWriter>(options.out, specs);
  const auto write_all = [&](const std::string& prefix, Bucket::Buffer buffer) {
    visit_hugging_face(names, model.state, buffer, [&](const HuggingFaceTensor& tensor) {
      if (writer) writer->write_values<float>(prefix + tensor.name, tensor.values);
    });
  };
  if (options.logits) {
    const std::vector<float> logits = gather_logits(rank, model, tokens, micro);
    if (writer) writer->write_values<float>("logits", logits);
  }

  std::vector<double> losses;
  std::vector<double> prediction_losses;
  std::vector<double> norms;
  for (int64_t s = 0; s < steps; ++s) {
    model.step.forward_backward(microbatches_of(tokens, s, micro, rank.mesh()));
    if (s == 0) write_all("grad.", Bucket::Buffer::gradient);
    model.step.update(learning_rate(config.optimizer, steps, s), s + 1);
    const StepNumbers numbers = model.step.take_numbers();
    losses.push_back(numbers.loss);
    prediction_losses.push_back(numbers.prediction_loss);
    norms.push_back(numbers.grad_norm);
  }
  write_all("weight.", Bucket::Buffer::master);
  if (writer) {
    writer->write_values<double>("loss", losses);
    if (predicts) writer->write_values<double>("prediction_loss", prediction_losses);
    writer->write_values<double>("grad_norm", norms);
    writer->finish();
  }
}

}  // namespace trireme
