#include "launcher/layout_run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/error.h"
#include "core/ops/cross_entropy.h"
#include "core/random/philox.h"
#include "launcher/rank_context.h"
#include "launcher/rank_model.h"
#include "launcher/shrink.h"
#include "parallel/resolve.h"

namespace trireme {

namespace {

constexpr double kPerturbation = 0.03;

void perturb_constants(Stream& stream, const std::vector<ParameterRef>& parameters, uint64_t seed) {
  std::vector<float> values;
  for (const ParameterRef& ref : parameters) {
    const Parameter& parameter = *ref.parameter;
    if (parameter.decays()) continue;  // norms, biases and buffers are constant at first
    const uint64_t key = random_key(seed, "perturbation " + parameter.name);
    values.resize(static_cast<size_t>(parameter.shape.numel()));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(parameter.init.value + kPerturbation * normal_at(key, i));
    }
    ref.bucket->write(stream, parameter, Bucket::Buffer::master, values.data());
  }
}

// Reads a rank's flight recorder step by step.
class TrafficMeter {
 public:
  explicit TrafficMeter(FlightRecorder& recorder) : recorder_(recorder) { skip(); }

  // What was called since the last time.
  std::vector<Traffic> take() {
    const std::vector<FlightRecord> records = recorder_.records();
    TRIREME_CHECK(recorder_.num_records() - first_ == static_cast<int64_t>(records.size()),
                  "the recorder is too small");
    std::vector<Traffic> list;
    for (const FlightRecord& record : records) add(list, record);
    skip();
    return list;
  }

 private:
  static void add(std::vector<Traffic>& list, const FlightRecord& record) {
    auto row = std::find_if(list.begin(), list.end(), [&](const Traffic& t) {
      return t.op == record.op && t.group == record.group && t.group_size == record.group_size;
    });
    if (row == list.end()) row = list.insert(row, {record.op, record.group, record.group_size});
    ++row->calls;
    row->bytes += record.bytes;
    row->largest_bytes = std::max(row->largest_bytes, record.bytes);
  }

  void skip() {
    recorder_.clear();
    first_ = recorder_.num_records();
  }

  FlightRecorder& recorder_;
  int64_t first_ = 0;
};

// Those of layers [begin, end) that have experts; behind the layers come the modules of multi-token prediction.
int64_t num_expert_layers(const ModelConfig& model, int64_t begin, int64_t end) {
  int64_t n = 0;
  for (int64_t layer = begin; layer < end; ++layer) n += model.has_experts(layer);
  return n;
}
int64_t num_expert_layers(const ModelConfig& model) {
  return num_expert_layers(model, 0, model.num_layers + model.num_predictors);
}

int64_t num_expert_layers(const Transformer& model) {
  const ModelConfig& config = model.config();
  int64_t n = 0;
  for (const ModelChunk& chunk : model.chunks()) {
    n += num_expert_layers(config, chunk.first_layer, chunk.first_layer + chunk.num_layers);
  }
  if (model.head() == nullptr) return n;
  return n + num_expert_layers(config, config.num_layers, config.num_layers + config.num_predictors);
}

// What the ranks put together.
struct Gathered {
  Gathered(const Config& config, int64_t steps, int ranks)
      : records(static_cast<size_t>(ranks)),
        numbers(static_cast<size_t>(ranks)),
        routing(config, steps, num_expert_layers(config.model)) {}

  GlobalCollector initial{"initial value"};
  GlobalCollector gradients{"gradient"};
  GlobalCollector weights{"updated weight"};
  std::vector<RankRecord> records;
  std::vector<std::vector<StepNumbers>> numbers;  // by rank and step
  RoutingTable routing;
};

void run_rank_of_layout(RankContext& rank, const Config& config, const LayoutInput& input, Gathered& gathered) {
  Stream& stream = rank.stream();
  const auto place = static_cast<size_t>(rank.rank());
  const auto seed = static_cast<uint64_t>(config.run.seed);
  RankModel rank_model(rank, config);
  Transformer& model = rank_model.model;
  TrainStep& step = rank_model.step;
  initialize_without_constants(stream, model, seed);
  gathered.initial.add(stream, model.parameters(), Bucket::Buffer::master, rank.rank());

  RankRecord& record = gathered.records[place];
  record.mesh = rank.mesh();
  RoutingRecorder recorder(config, rank.mesh(), gathered.routing);
  model.moe_stats().set_watch(&recorder);
  TrafficMeter meter(rank.recorder());
  for (int64_t s = 0; s < input.steps; ++s) {
    rank.recorder().set_step(s + 1);
    recorder.set_step(s);
    step.forward_backward(microbatches_of(input, s, config.batch.micro, rank.mesh()));
    if (s == 0) gathered.gradients.add(stream, model.parameters(), Bucket::Buffer::gradient, rank.rank());
    step.update(config.optimizer.lr, s + 1);
    gathered.numbers[place].push_back(step.take_numbers());
    record.traffic.push_back(meter.take());
  }
  gathered.weights.add(stream, model.parameters(), Bucket::Buffer::master, rank.rank());
  stream.synchronize();
  record.memory = rank.allocator().stats();
  record.num_parameters = std::ssize(model.parameters());
  record.num_buckets = std::ssize(model.buckets());
  record.num_expert_layers = num_expert_layers(model);
  for (const Bucket* bucket : model.buckets()) {
    record.gradient_elements += bucket->numel();
    if (bucket->values_of() == nullptr) record.value_elements += bucket->numel();
  }
}

// A bias of the keys adds the same to all scores of a query, unless rotary angles turn it: its gradient is zero but for
// rounding. It is measured against that of the keys' matrix.
std::map<std::string, std::string> key_biases(const Config& config, const GlobalTensors& tensors) {
  std::map<std::string, std::string> measures;
  if (config.model.rope.type != RopeType::none) return measures;
  const std::string end = ".attn.k.bias";
  for (const auto& [name, values] : tensors) {
    if (name.ends_with(end)) measures[name] = name.substr(0, name.size() - end.size()) + ".attn.k.weight";
  }
  return measures;
}

bool same_bits(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

double relative(double value, double reference) {
  if (value == reference) return 0;
  const double error = std::abs(value - reference) / std::abs(reference);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

double worst_relative(const std::vector<double>& values, const std::vector<double>& reference) {
  double worst = values.size() == reference.size() ? 0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(values.size(), reference.size()); ++i) {
    worst = std::max(worst, relative(values[i], reference[i]));
  }
  return worst;
}

}  // namespace

void initialize_without_constants(Stream& stream, Transformer& model, uint64_t seed) {
  model.initialize(stream, seed);
  perturb_constants(stream, model.parameters(), seed);
}

LayoutInput make_layout_input(const Config& config, int64_t steps, uint64_t seed) {
  LayoutInput in;
  in.steps = steps;
  in.batch = config.batch.global;
  in.sequence = config.data.sequence_length;
  in.has_documents = config.data.mask_documents;
  const auto n = static_cast<size_t>(in.steps * in.batch * in.sequence);
  const uint64_t token_key = random_key(seed, "tokens");
  const uint64_t ignored_key = random_key(seed, "ignored labels");
  const uint64_t document_key = random_key(seed, "documents");
  const auto vocab = static_cast<uint64_t>(config.model.vocab_size);
  in.tokens.resize(n);
  in.labels.resize(n);
  in.positions.resize(n);
  in.document_start.resize(n);
  for (size_t i = 0; i < n; ++i) {
    const auto place = static_cast<int32_t>(i % static_cast<size_t>(in.sequence));
    in.tokens[i] = static_cast<int32_t>(uniform_below(token_key, i, vocab));
    in.labels[i] = static_cast<int32_t>(uniform_below(token_key, i + 1, vocab));
    const bool empty_sequence =
        in.batch >= 4 && i / static_cast<size_t>(in.sequence) % static_cast<size_t>(in.batch) == 2;
    if (empty_sequence || uniform_below(ignored_key, i, 10) == 0) in.labels[i] = ops::kIgnoredLabel;
    const bool begins = place == 0 || (in.has_documents && uniform_below(document_key, i, 6) == 0);
    in.positions[i] = begins ? 0 : in.positions[i - 1] + 1;
    in.document_start[i] = place - in.positions[i];
  }
  return in;
}

LayoutResult run_layout(const Config& config, const LayoutInput& input, const ThreadWorldOptions& world) {
  TRIREME_CHECK(input.batch == config.batch.global && input.sequence == config.data.sequence_length);
  const auto ranks = static_cast<int>(num_ranks(config.parallel));
  Gathered gathered(config, input.steps, ranks);
  run_thread_ranks(
      ranks,
      [&](Communicator& communicator) {
        RankContext rank(config, communicator, LocalPlace{communicator.rank(), ranks});
        run_rank_of_layout(rank, config, input, gathered);
      },
      world);

  LayoutResult result;
  for (const StepNumbers& numbers : gathered.numbers.front()) {
    result.loss.push_back(numbers.loss);
    result.grad_norm.push_back(numbers.grad_norm);
    result.experts.push_back(numbers.moe);
  }
  for (size_t r = 1; r < gathered.numbers.size(); ++r) {
    for (size_t s = 0; s < result.loss.size(); ++s) {
      const StepNumbers& other = gathered.numbers[r][s];
      if (same_bits(other.loss, result.loss[s]) && same_bits(other.grad_norm, result.grad_norm[s])) continue;
      result.findings.push_back("rank " + std::to_string(r) +
                                " has another loss or gradient norm than rank 0 in step " + std::to_string(s + 1) +
                                ": " + std::to_string(other.loss) + ", " + std::to_string(other.grad_norm));
    }
  }
  for (const GlobalCollector* collector : {&gathered.initial, &gathered.gradients, &gathered.weights}) {
    for (std::string& text : collector->findings()) result.findings.push_back(std::move(text));
  }
  result.initial = gathered.initial.take();
  result.gradients = gathered.gradients.take();
  result.weights = gathered.weights.take();
  result.ranks = std::move(gathered.records);
  result.routing = std::move(gathered.routing);
  return result;
}

Config one_rank(const Config& config) {
  Config one = config;
  one.parallel = {.data = 1, .backend = config.parallel.backend};
  one.recompute = {};
  // Balance over the whole batch so far looks at the data ranks' microbatches together.
  const bool whole_batch = config.moe.balance == MoeBalance::aux && config.moe.aux_scope == AuxScope::global;
  if (config.model.experts.num_experts > 0 && whole_batch) one.batch.micro *= *config.parallel.data;
  return one;
}

bool LayoutComparison::within(double tolerance) const {
  return loss <= tolerance && grad_norm <= tolerance && worst_gradient() <= tolerance && worst_weight() <= tolerance &&
         unmoved.empty() && findings.empty() && initial.empty() && !choices.found && experts.empty();
}

// What the routers decided, before what came of it.
static void compare_experts(const LayoutResult& result, const LayoutResult& reference, LayoutComparison& c) {
  c.choices = result.routing.compare(reference.routing);
  if (c.choices.found) return;
  for (size_t s = 0; s < result.experts.size(); ++s) {
    const MoeNumbers& got = result.experts[s];
    const MoeNumbers& want = reference.experts[s];
    const std::string where = " in step " + std::to_string(s + 1) + " differs from that of one rank";
    if (got.load != want.load) c.experts.push_back("the load of experts" + where);
    if (got.dropped != want.dropped) c.experts.push_back("the number of dropped slots" + where);
    const auto check = [&](const char* name, double a, double b) {
      if (relative(a, b) > 1e-5) {
        c.experts.push_back(name + where + ": " + std::to_string(a) + ", not " + std::to_string(b));
      }
    };
    check("the balance loss", got.balance_loss, want.balance_loss);
    check("the z-loss", got.z_loss, want.z_loss);
    check("the routers' entropy", got.entropy, want.entropy);
  }
}

LayoutComparison compare(const LayoutResult& result, const LayoutResult& reference, const Config& config) {
  const OptimizerConfig& optimizer = config.optimizer;
  LayoutComparison c;
  c.loss = worst_relative(result.loss, reference.loss);
  c.grad_norm = worst_relative(result.grad_norm, reference.grad_norm);
  c.gradients = compare_tensors(result.gradients, reference.gradients, key_biases(config, reference.gradients));
  c.weights = compare_tensors(result.weights, reference.weights);
  // Clipping scales the gradients that Adam sees.
  const double clip = optimizer.clip_grad_norm;
  const double norm = reference.grad_norm.front();
  const double factor = clip > 0 && norm > clip ? clip / norm : 1.0;
  c.unmoved = unmoved(reference.initial, result.weights, reference.gradients, optimizer.lr, optimizer.eps / factor);
  c.findings = result.findings;
  for (const TensorError& e : compare_tensors(result.initial, reference.initial)) {
    if (e.error != 0) c.initial.push_back("the initial values of " + e.name + " differ from those of one rank");
  }
  compare_experts(result, reference, c);
  return c;
}

}  // namespace trireme
