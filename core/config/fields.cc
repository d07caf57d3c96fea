#include "core/config/fields.h"

namespace trireme {

namespace {

template <class T>
SectionRef one(T& value) {
  return {.shape = SectionRef::Shape::one,
          .size = [] { return size_t{1}; },
          .resize = [](size_t) {},
          .describe = [&value](FieldVisitor& v, size_t) { describe(v, value); }};
}

template <class T>
SectionRef at_most_one(std::optional<T>& value) {
  return {.shape = SectionRef::Shape::optional,
          .size = [&value] { return value ? size_t{1} : size_t{0}; },
          .resize = [&value](size_t n) { value = n == 0 ? std::nullopt : std::optional<T>(T{}); },
          .describe = [&value](FieldVisitor& v, size_t) { describe(v, *value); }};
}

template <class T>
SectionRef list_of(std::vector<T>& values) {
  return {.shape = SectionRef::Shape::list,
          .size = [&values] { return values.size(); },
          .resize = [&values](size_t n) { values.assign(n, T{}); },
          .describe = [&values](FieldVisitor& v, size_t i) { describe(v, values[i]); }};
}

}  // namespace

// Static, not in the unnamed namespace: the templates above find them by their argument's namespace.
static void describe(FieldVisitor& v, RunConfig& c) {
  v.field({.name = "dir", .doc = "the run directory", .required = true}, &c.dir);
  v.field({.name = "steps", .doc = "optimizer steps of the whole run", .min = 1, .required = true}, &c.steps);
  v.field({.name = "seed", .doc = "of initial values and sample order", .min = 0}, &c.seed);
  v.field({.name = "device", .doc = "auto: a GPU where there is one, else the CPU"}, EnumRef(c.device));
  v.field({.name = "threads",
           .doc = "host threads of each rank; auto: its share of the cores",
           .min = 1,
           .max = 4096,
           .none = "auto"},
          &c.threads);
  v.field({.name = "deterministic", .doc = "the same layout gives the same bits"}, &c.deterministic);
  v.field({.name = "cuda_graphs", .doc = "record a microbatch once and replay it: auto (small ones) | always | never"},
          EnumRef(c.cuda_graphs));
  v.field({.name = "log_every", .doc = "steps between rows of metrics.jsonl; 0: never", .min = 0}, &c.log_every);
  v.field({.name = "eval_every", .doc = "steps between evaluations; 0: never", .min = 0}, &c.eval_every);
  v.field({.name = "eval_batches", .doc = "global batches of one evaluation", .min = 1}, &c.eval_batches);
}

static void describe(FieldVisitor& v, DataSource& c) {
  v.field(
      {.name = "path", .doc = "Megatron prefix (PATH.bin, PATH.idx), llm.c .bin or datatrove .ds", .required = true},
      &c.path);
  v.field({.name = "weight", .doc = "share in the blend, relative to the sum", .min = 0, .above_min = true}, &c.weight);
}

static void describe(FieldVisitor& v, DataConfig& c) {
  v.section({.name = "train", .doc = "what is trained on", .required = true}, list_of(c.train));
  v.section({.name = "valid", .doc = "validation sources of their own, instead of valid_fraction"}, list_of(c.valid));
  v.field({.name = "valid_fraction",
           .doc = "of the documents, the last ones, held back for validation; 0: none",
           .min = 0,
           .max = 0.99},
          &c.valid_fraction);
  v.field({.name = "tokenizer", .doc = "bytes, a SentencePiece .model or a tokenizer.json"}, &c.tokenizer);
  v.field({.name = "sequence_length", .doc = "tokens of a sample", .min = 1, .max = 1 << 24}, &c.sequence_length);
  v.field({.name = "mask_documents", .doc = "attention stays inside a document and positions restart"},
          &c.mask_documents);
}

static void describe(FieldVisitor& v, BatchRamp& c) {
  v.field({.name = "start", .doc = "sequences per step at the beginning", .min = 1, .required = true}, &c.start);
  v.field({.name = "increment", .doc = "sequences added at a time", .min = 1, .required = true}, &c.increment);
  v.field({.name = "samples", .doc = "consumed samples at which the full batch is reached", .min = 1, .required = true},
          &c.samples);
}

static void describe(FieldVisitor& v, BatchConfig& c) {
  v.field({.name = "global", .doc = "sequences per step, of all ranks", .min = 1, .required = true}, &c.global);
  v.field({.name = "micro", .doc = "sequences per data rank and forward pass", .min = 1, .required = true}, &c.micro);
  v.section({.name = "ramp", .doc = "the global batch grows in equal stages"}, at_most_one(c.ramp));
}

static void describe(FieldVisitor& v, LrScheduleConfig& c) {
  v.field({.name = "type", .doc = "how the learning rate falls after the warm-up"}, EnumRef(c.type));
  v.field({.name = "warmup_steps", .doc = "steps of the linear rise from 0", .min = 0}, &c.warmup_steps);
  v.field({.name = "decay_steps",
           .doc = "linear, cosine: the step that reaches min_lr (null: run.steps); wsd: length "
                  "of the final decay (null: a tenth of run.steps)",
           .min = 1},
          &c.decay_steps);
  v.field({.name = "min_lr", .doc = "where the decay ends", .min = 0}, &c.min_lr);
}

static void describe(FieldVisitor& v, OptimizerConfig& c) {
  v.field({.name = "type", .doc = "AdamW with decoupled weight decay"}, EnumRef(c.type));
  v.field({.name = "lr", .doc = "peak learning rate", .min = 0}, &c.lr);
  v.field({.name = "betas", .doc = "decay of the first and second moment, each below 1", .min = 0, .max = 1.0 - 1e-12},
          &c.betas);
  v.field({.name = "eps", .doc = "added to the root of the second moment", .min = 0}, &c.eps);
  v.field({.name = "weight_decay", .doc = "on parameters of two and more dims, never on norms and biases", .min = 0},
          &c.weight_decay);
  v.field({.name = "clip_grad_norm", .doc = "bound of the global gradient norm; 0: no clipping", .min = 0},
          &c.clip_grad_norm);
  v.section({.name = "schedule"}, one(c.schedule));
}

static void describe(FieldVisitor& v, PrecisionConfig& c) {
  v.field({.name = "compute", .doc = "auto: bf16 where hardware has it or master is none, else fp32"},
          EnumRef(c.compute));
  v.field({.name = "master", .doc = "master weights; none: bf16 weights with stochastic rounding"}, EnumRef(c.master));
  v.field({.name = "gradients", .doc = "buffers in which gradients are added up and reduced; sums of a call are fp32"},
          EnumRef(c.gradients));
  v.field({.name = "optimizer_states", .doc = "Adam's moments; bf16: with stochastic rounding"},
          EnumRef(c.optimizer_states));
}

static void describe(FieldVisitor& v, ParallelConfig& c) {
  v.field(
      {.name = "data", .doc = "data degree; auto: the ranks that the other degrees leave", .min = 1, .none = "auto"},
      &c.data);
  v.field({.name = "tensor", .doc = "tensor degree", .min = 1}, &c.tensor);
  v.field({.name = "sequence", .doc = "sequence parallelism on the tensor axis"}, &c.sequence);
  v.field({.name = "context", .doc = "context degree", .min = 1}, &c.context);
  v.field({.name = "pipeline", .doc = "pipeline stages", .min = 1}, &c.pipeline);
  v.field({.name = "virtual_stages", .doc = "model chunks of each pipeline rank", .min = 1}, &c.virtual_stages);
  v.field({.name = "schedule", .doc = "pipeline schedule"}, EnumRef(c.schedule));
  v.field({.name = "stages", .doc = "layers of each stage", .min = 0, .none = "auto"}, &c.stages);
  v.field({.name = "expert", .doc = "expert degree", .min = 1}, &c.expert);
  v.field({.name = "expert_tensor", .doc = "tensor degree of expert layers", .min = 1}, &c.expert_tensor);
  v.field({.name = "zero", .doc = "ZeRO stage: what data ranks share out", .min = 0, .max = 3}, &c.zero);
  v.field({.name = "zero_group",
           .doc = "ranks that share shards; replicas beyond it",
           .min = 1,
           .words = {{"all", kZeroGroupAll}, {"node", kZeroGroupNode}}},
          &c.zero_group);
  v.field({.name = "keep_gathered", .doc = "ZeRO 3: how long gathered parameters stay"}, EnumRef(c.keep_gathered));
  v.field({.name = "prefetch", .doc = "ZeRO 3: units whose parameters are gathered ahead", .min = 0}, &c.prefetch);
  v.field({.name = "microbatch_group",
           .doc = "interleaved: microbatches that pass a chunk before the next chunk's turn; auto: the pipeline degree",
           .min = 1,
           .none = "auto"},
          &c.microbatch_group);
  v.field({.name = "overlap_tensor",
           .doc = "chunks in which gathers and scatters of tensor parallelism overlap the products; 1: none",
           .min = 1},
          &c.overlap_tensor);
  v.field({.name = "backend", .doc = "of communication between devices"}, EnumRef(c.backend));
  v.field({.name = "overlap_grad_reduce", .doc = "gradients are reduced during the backward pass"},
          &c.overlap_grad_reduce);
  v.field({.name = "overlap_param_gather", .doc = "parameters are gathered during the forward pass"},
          &c.overlap_param_gather);
}

static void describe(FieldVisitor& v, MoeConfig& c) {
  v.field({.name = "router", .doc = "how tokens choose experts"}, EnumRef(c.router));
  v.field({.name = "balance", .doc = "what keeps experts evenly loaded"}, EnumRef(c.balance));
  v.field({.name = "aux_scope", .doc = "over which tokens the auxiliary loss balances"}, EnumRef(c.aux_scope));
  v.field({.name = "aux_loss_coef", .doc = "weight of the auxiliary loss; beats config.json's", .min = 0},
          &c.aux_loss_coef);
  v.field({.name = "z_loss_coef", .doc = "weight of the router's z-loss", .min = 0}, &c.z_loss_coef);
  v.field({.name = "bias_update_rate", .doc = "step of the selection bias", .min = 0}, &c.bias_update_rate);
  v.field({.name = "capacity_factor",
           .doc = "tokens of an expert, relative to an even share; null: none dropped",
           .min = 0,
           .above_min = true},
          &c.capacity_factor);
  v.field({.name = "drop", .doc = "which tokens go when an expert is full"}, EnumRef(c.drop));
  v.field({.name = "dispatch", .doc = "how tokens travel to their experts"}, EnumRef(c.dispatch));
}

static void describe(FieldVisitor& v, RecomputeConfig& c) {
  v.field({.name = "mode", .doc = "selective: norms and activation functions; full: keep only a layer's input"},
          EnumRef(c.mode));
  v.field({.name = "layers", .doc = "all, or how many of the first layers", .min = 0, .none = "all"}, &c.layers);
}

static void describe(FieldVisitor& v, CheckpointConfig& c) {
  v.field({.name = "every", .doc = "steps between checkpoints; 0: only at the end and when stopped", .min = 0},
          &c.every);
  v.field({.name = "keep_last", .doc = "how many of the newest stay; 0: all", .min = 0}, &c.keep_last);
  v.field({.name = "keep_every", .doc = "multiples of so many steps stay for good; 0: none", .min = 0}, &c.keep_every);
  v.field({.name = "async", .doc = "written behind the next steps"}, &c.async);
  v.field({.name = "host_buffer",
           .doc = "host memory of each rank that a save may take; at least three chunks of 4MiB",
           .min = 12 << 20,
           .unit = Unit::bytes},
          &c.host_buffer_bytes);
  v.field({.name = "resume",
           .doc = "auto (the newest checkpoint of run.dir), never, or the path of a checkpoint or of a run directory"},
          &c.resume);
  v.field(
      {.name = "init_from",
       .doc =
           "weights to start from where nothing is resumed: a Hugging Face directory, a checkpoint, a run directory"},
      &c.init_from);
}

static void describe(FieldVisitor& v, ProfileConfig& c) {
  v.field({.name = "start", .doc = "first traced step", .min = 1}, &c.start);
  v.field({.name = "end", .doc = "last traced step; null: start", .min = 1}, &c.end);
  v.field({.name = "ranks", .doc = "traced ranks", .min = 0}, &c.ranks);
  v.field({.name = "trace", .doc = "file of the trace; null: in run.dir/traces"}, &c.trace);
}

// Only what the scaling type needs is listed, so that a stray factor is an unknown key.
static void describe_rope_scaling(FieldVisitor& v, RopeConfig& c) {
  v.field({.name = "rope_type", .doc = "scaling of the rotary angles", .required = true, .alias = "type"},
          EnumRef(c.type));
  if (c.type == RopeType::none || c.type == RopeType::standard) return;
  v.field({.name = "factor", .doc = "how much longer the context becomes", .min = 1, .required = true}, &c.factor);
  if (c.type != RopeType::llama3) return;
  v.field({.name = "low_freq_factor",
           .doc = "llama3: wavelengths above original/low are scaled fully",
           .min = 0,
           .above_min = true,
           .required = true},
          &c.low_freq_factor);
  v.field({.name = "high_freq_factor",
           .doc = "llama3: wavelengths below original/high are left alone",
           .min = 0,
           .above_min = true,
           .required = true},
          &c.high_freq_factor);
  v.field(
      {.name = "original_max_position_embeddings", .doc = "llama3: context before scaling", .min = 1, .required = true},
      &c.original_max_position_embeddings);
}

static SectionRef rope_scaling(RopeConfig& rope) {
  return {.shape = SectionRef::Shape::optional,
          .size = [&rope] { return rope.type == RopeType::standard ? size_t{0} : size_t{1}; },
          .resize =
              [&rope](size_t n) {
                if (n == 0) rope = RopeConfig{.theta = rope.theta};
              },
          .describe = [&rope](FieldVisitor& v, size_t) { describe_rope_scaling(v, rope); }};
}

void describe(FieldVisitor& v, ModelConfig& c) {
  v.field({.name = "model_type", .doc = "the family", .required = true}, EnumRef(c.family));
  const bool gpt2 = c.family == ModelFamily::gpt2;
  const auto also = [gpt2](const char* name) { return gpt2 ? std::string(name) : std::string(); };
  v.field({.name = "hidden_size", .doc = "C", .min = 1, .required = true, .alias = also("n_embd")}, &c.hidden_size);
  v.field(
      {.name = "num_hidden_layers", .doc = "transformer blocks", .min = 1, .required = true, .alias = also("n_layer")},
      &c.num_layers);
  v.field({.name = "num_attention_heads", .doc = "H", .min = 1, .required = true, .alias = also("n_head")},
          &c.num_heads);
  v.field({.name = "intermediate_size",
           .doc = "F; GPT-2: null is 4·C",
           .min = 1,
           .required = !gpt2,
           .words = gpt2 ? Words{{"null", 0}} : Words{},
           .alias = also("n_inner")},
          &c.ffn_size);
  v.field({.name = "vocab_size", .doc = "V, unpadded", .min = 1, .required = true}, &c.vocab_size);
  v.field({.name = "max_position_embeddings",
           .doc = "longest context, tokens",
           .min = 1,
           .required = true,
           .alias = also("n_positions")},
          &c.max_positions);
  v.field({.name = gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", .doc = "inside the root of the norm", .min = 0},
          &c.norm_eps);
  v.field({.name = "hidden_act",
           .doc = "GPT-2: gelu_new (tanh) or gelu (erf); others: silu, gated",
           .alias = also("activation_function")},
          EnumRef(c.activation));
  v.field({.name = "tie_word_embeddings", .doc = "the head's weight is the embedding's; GPT-2: true by default"},
          &c.tie_embeddings);
  v.field({.name = "initializer_range", .doc = "standard deviation of initial weights", .min = 0},
          &c.initializer_range);
  if (gpt2) return;
  v.field({.name = "num_key_value_heads", .doc = "null: as many as heads", .min = 1, .words = {{"null", 0}}},
          &c.num_kv_heads);
  v.field({.name = "head_dim", .doc = "D; null: C / H", .min = 1, .words = {{"null", 0}}}, &c.head_dim);
  v.field({.name = "rope_theta", .doc = "base of the rotary angles", .min = 0, .above_min = true}, &c.rope.theta);
  v.section({.name = "rope_scaling", .doc = "null: none"}, rope_scaling(c.rope));
}

void describe(FieldVisitor& v, Config& c) {
  v.section({.name = "run"}, one(c.run));
  v.section({.name = "model"}, one(c.model));
  v.section({.name = "data"}, one(c.data));
  v.section({.name = "batch"}, one(c.batch));
  v.section({.name = "optimizer"}, one(c.optimizer));
  v.section({.name = "precision"}, one(c.precision));
  v.section({.name = "parallel"}, one(c.parallel));
  v.section({.name = "moe"}, one(c.moe));
  v.section({.name = "recompute"}, one(c.recompute));
  v.section({.name = "checkpoint"}, one(c.checkpoint));
  v.section({.name = "profile"}, one(c.profile));
}

}  // namespace trireme
