#include "tests/parallel/layouts_numbers.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "parallel/resolve.h"

namespace trireme::layouts {

namespace {

constexpr int64_t kFewRanks = 48;  // of layouts that needn't have kMaxRanks
constexpr int64_t kFewLayers = 8;  // so many don't drown the embedding

struct Axes {
  int64_t data = 1;
  int64_t tensor = 1;
  int64_t pipeline = 1;
};

std::vector<Axes> choices(const Levels& levels, bool full) {
  const std::vector<int64_t> more_data = full ? std::vector<int64_t>{4, 8, 16} : std::vector<int64_t>{3, 4, 6};
  const std::vector<int64_t> more_tensor = full ? std::vector<int64_t>{4, 8} : std::vector<int64_t>{3, 4, 8};
  const std::vector<int64_t> more_pipeline = full ? std::vector<int64_t>{4, 8, 16} : std::vector<int64_t>{3, 4, 5};
  const auto of_level = [](int level, const std::vector<int64_t>& more) {
    return level < 2 ? std::vector<int64_t>{level + 1} : more;
  };
  std::vector<Axes> list;
  for (const int64_t data : of_level(levels[kData], more_data)) {
    if (levels[kZeroGroup] == 1 && data % 2 != 0) continue;
    for (const int64_t tensor : of_level(levels[kTensor], more_tensor)) {
      for (const int64_t pipeline : of_level(levels[kPipeline], more_pipeline)) {
        const int64_t ranks = data * tensor * pipeline;
        if (full ? ranks == kMaxRanks : ranks <= kFewRanks) list.push_back({data, tensor, pipeline});
      }
    }
  }
  return list;
}

class Numbers {
 public:
  Numbers(const Levels& levels, bool full, Random& random)
      : levels_(levels), random_(random), axes_(random.pick(choices(levels, full))) {}

  std::vector<std::string> sets() {
    set_parallel();
    set_model();
    set_layers();
    set_batch();
    set("recompute.mode", to_string(static_cast<RecomputeMode>(levels_[kRecompute])));
    set("precision.compute", levels_[kPrecision] == 0 ? "fp32" : "bf16");
    set("optimizer.clip_grad_norm", levels_[kClip] == 0 ? "0" : "0.3");
    set("run.seed", std::to_string(random_.below(1000000)));
    return std::move(sets_);
  }

 private:
  void set(const std::string& key, const std::string& value) { sets_.push_back(key + "=" + value); }
  void set(const std::string& key, int64_t value) { set(key, std::to_string(value)); }
  void set_switch(const std::string& key, Feature f) { set(key, levels_[f] == 1 ? "true" : "false"); }

  void set_parallel() {
    set("parallel.data", axes_.data);
    set("parallel.tensor", axes_.tensor);
    set("parallel.pipeline", axes_.pipeline);
    const auto schedule = static_cast<PipelineSchedule>(levels_[kSchedule]);
    set("parallel.schedule", to_string(schedule));
    if (schedule == PipelineSchedule::interleaved) {
      virtual_stages_ = axes_.pipeline < 8 ? random_.pick<int64_t>({2, 3}) : 2;
      set("parallel.virtual_stages", virtual_stages_);
      if (random_.below(3) == 0) {
        group_ = axes_.pipeline + 1;
        set("parallel.microbatch_group", group_);
      }
    }
    if (schedule == PipelineSchedule::zb_v) virtual_stages_ = 2;
    if (group_ == 0) group_ = axes_.pipeline;
    set("parallel.zero", levels_[kZero]);
    if (levels_[kZeroGroup] == 1) {
      const bool quarters = axes_.data % 4 == 0 && axes_.data > 4 && random_.below(2) == 0;
      set("parallel.zero_group", quarters ? axes_.data / 4 : axes_.data / 2);
    }
    set("parallel.keep_gathered", levels_[kKeepGathered] == 0 ? "unit" : "step");
    set("parallel.prefetch", levels_[kPrefetch] == 0 ? 0 : random_.pick<int64_t>({1, 2, 5}));
    set_switch("parallel.sequence", kSequence);
    set_switch("parallel.overlap_grad_reduce", kOverlapReduce);
    set_switch("parallel.overlap_param_gather", kOverlapGather);
    set("parallel.overlap_tensor", levels_[kOverlapTensor] == 0 ? 1 : random_.pick<int64_t>({2, 3}));
  }

  void set_model() {
    const auto family = static_cast<ModelFamily>(levels_[kFamily]);
    set("model.model_type", to_string(family));
    const int64_t kv_heads = axes_.tensor * (axes_.tensor < 4 ? random_.pick<int64_t>({1, 2}) : 1);
    const int64_t heads = levels_[kKvHeads] == 1 ? kv_heads * random_.pick<int64_t>({2, 3}) : kv_heads;
    const int64_t head_dim = heads > 12 ? 4 : heads == 1 ? 16 : 8;
    set("model.num_attention_heads", heads);
    hidden_size_ = heads * head_dim;
    set("model.hidden_size", hidden_size_);
    set("model.intermediate_size", 8 * axes_.tensor * random_.pick<int64_t>({1, 2}) + random_.pick<int64_t>({0, 3}));
    set_switch("model.tie_word_embeddings", kTied);
    const int64_t unit = 8 * axes_.tensor;
    set("model.vocab_size",
        levels_[kVocabulary] == 0 ? unit * ((96 + unit - 1) / unit) : random_.pick<int64_t>({89, 21}));
    set_switch("data.mask_documents", kDocuments);
    set("data.sequence_length", levels_[kLength] == 0 ? 12 : random_.pick<int64_t>({13, 5}));
    if (family == ModelFamily::gpt2) return;  // has none of the following keys
    set("model.num_key_value_heads", kv_heads);
    if (family == ModelFamily::qwen3) set("model.head_dim", 8);  // with many heads wider than the hidden size
    if (family == ModelFamily::llama && random_.below(2) == 0) {
      set("model.rope_scaling",
          "{rope_type: llama3, factor: 8, low_freq_factor: 1, high_freq_factor: 4, "
          "original_max_position_embeddings: 16}");
    }
  }

  void set_layers() {
    const int64_t chunks = axes_.pipeline * virtual_stages_;
    std::vector<int64_t> list(static_cast<size_t>(chunks), 1);
    if (levels_[kSplit] == 2) {
      // Ends without a layer, or with more than the middle.
      const bool two = chunks == 2;
      list.front() = random_.below(3);
      list.back() = two && list.front() == 0 ? 1 : random_.below(3);
      if (std::all_of(list.begin(), list.end(), [](int64_t n) { return n == 1; })) list.front() = 0;
      std::string text;
      for (const int64_t n : list) text += (text.empty() ? "[" : ", ") + std::to_string(n);
      set("parallel.stages", text + "]");
    } else if (levels_[kSplit] == 1) {
      list[random_.below(2) == 0 ? 0 : list.size() / 2] += 1;
    } else if (chunks <= 2) {
      std::fill(list.begin(), list.end(), 2 / chunks);
    }
    const int64_t layers = std::accumulate(list.begin(), list.end(), int64_t{0});
    set("model.num_hidden_layers", layers);
    set("model.initializer_range", std::to_string(initializer_range(layers)));
  }

  // Narrow layers with the usual 0.02 would hardly attend. What a layer adds to the hidden states grows with the square
  // of this, the embedding only in proportion: below many layers of the full range it would drown. All tokens would come
  // to look alike, and the gradients of queries and keys, which live on how tokens differ, would be lost in rounding.
  double initializer_range(int64_t layers) const {
    const double depth = static_cast<double>(std::max(layers, kFewLayers));
    return 0.4 / std::sqrt(static_cast<double>(hidden_size_)) * static_cast<double>(kFewLayers) / depth;
  }

  void set_batch() {
    int64_t count = 1;
    const int64_t most = axes_.pipeline < 8 ? 2 : 1;
    if (levels_[kMicrobatches] == 1) {
      count = group_ * (1 + random_.below(static_cast<int>(most)));
      if (count == 1) count = random_.pick<int64_t>({2, 3});
    } else if (levels_[kMicrobatches] == 2) {
      const int64_t rest = 1 + random_.below(static_cast<int>(group_) - 1);
      count = group_ * random_.below(static_cast<int>(most) + 1) + rest;
      if (count == 1) count += group_;
    }
    const int64_t micro = random_.pick<int64_t>({1, 2});
    set("batch.micro", micro);
    set("batch.global", count * micro * axes_.data);
  }

  const Levels& levels_;
  Random& random_;
  Axes axes_;
  int64_t virtual_stages_ = 1;
  int64_t hidden_size_ = 0;
  int64_t group_ = 0;
  std::vector<std::string> sets_;
};

int three(int64_t degree) { return static_cast<int>(std::min<int64_t>(degree, 3)) - 1; }

int split_level(const Config& config) {
  if (config.parallel.stages) return 2;
  const std::vector<int64_t> stages = resolve_stages(config);
  return std::adjacent_find(stages.begin(), stages.end(), std::not_equal_to<>()) == stages.end() ? 0 : 1;
}

int microbatch_level(const Config& config) {
  const ParallelConfig& p = config.parallel;
  const int64_t count = resolve_microbatches(config.batch.global, config.batch.micro, *p.data);
  if (count == 1) return 0;
  return count % p.microbatch_group.value_or(p.pipeline) == 0 ? 1 : 2;
}

}  // namespace

bool can_be_full(const Levels& levels) { return !choices(levels, true).empty(); }

std::vector<std::string> exact_numbers(const Levels& levels, bool full, Random& random) {
  return Numbers(levels, full, random).sets();
}

Levels levels_of(const Config& config) {
  const ParallelConfig& p = config.parallel;
  const ModelConfig& m = config.model;
  Levels l{};
  l[kData] = three(*p.data);
  l[kTensor] = three(p.tensor);
  l[kPipeline] = three(p.pipeline);
  l[kSchedule] = static_cast<int>(p.schedule);
  l[kZero] = static_cast<int>(p.zero);
  l[kFamily] = static_cast<int>(m.family);
  l[kSequence] = p.sequence;
  l[kMicrobatches] = microbatch_level(config);
  l[kZeroGroup] = p.zero_group != kZeroGroupAll;
  l[kKeepGathered] = p.keep_gathered == KeepGathered::step;
  l[kPrefetch] = p.prefetch > 0;
  l[kRecompute] = static_cast<int>(config.recompute.mode);
  l[kTied] = m.tie_embeddings;
  l[kKvHeads] = m.num_kv_heads < m.num_heads;
  l[kVocabulary] = m.vocab_size % (8 * p.tensor) != 0;
  l[kLength] = config.data.sequence_length % 2 != 0;
  l[kPrecision] = config.precision.compute == ComputeType::bf16;
  l[kOverlapReduce] = p.overlap_grad_reduce;
  l[kOverlapGather] = p.overlap_param_gather;
  l[kOverlapTensor] = p.overlap_tensor > 1;
  l[kSplit] = split_level(config);
  l[kDocuments] = config.data.mask_documents;
  l[kClip] = config.optimizer.clip_grad_norm > 0;
  return l;
}

}  // namespace trireme::layouts
