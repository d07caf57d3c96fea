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
  v.field({.name = "hang_timeout",
           .doc = "a run in which a call waits so long for other ranks ends (exit code 6); 0: none does",
           .min = 0,
           .unit = Unit::seconds},
          &c.hang_timeout);
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
  v.field({.name = "balance",
           .doc = "what keeps experts evenly loaded; where it isn't given, routers that are even by themselves (base, "
                  "expert_choice, hash) have none"},
          EnumRef(c.balance));
  v.field({.name = "aux_scope", .doc = "over which tokens the auxiliary loss balances"}, EnumRef(c.aux_scope));
  v.field({.name = "aux_loss_coef",
           .doc = "weight of the auxiliary loss; beats config.json's; null: config.json's, or 0.01",
           .min = 0},
          &c.aux_loss_coef);
  v.field({.name = "z_loss_coef", .doc = "weight of the router's z-loss", .min = 0}, &c.z_loss_coef);
  v.field({.name = "bias_update_rate", .doc = "step of the selection bias", .min = 0}, &c.bias_update_rate);
  v.field({.name = "capacity_factor",
           .doc = "tokens of an expert, relative to an even share; at least 1; null: none dropped",
           .min = 0,
           .max = 1 << 20,
           .above_min = true},
          &c.capacity_factor);
  v.field({.name = "drop", .doc = "which tokens go when an expert is full"}, EnumRef(c.drop));
  v.field({.name = "dispatch", .doc = "how tokens travel to their experts"}, EnumRef(c.dispatch));
  v.field({.name = "dispatch_chunks",
           .doc = "tokens travel in so many parts, each beside the products of the one before",
           .min = 1,
           .max = 64},
          &c.dispatch_chunks);
  v.field({.name = "prediction_coef", .doc = "weight of the loss of multi-token prediction", .min = 0},
          &c.prediction_coef);
  v.field({.name = "constant_share",
           .doc = "MoE++: weight in the balance loss of an expert that computes nothing, relative to a real one; and "
                  "capacity of "
                  "a real one, relative to it",
           .min = 0,
           .above_min = true},
          &c.constant_share);
  v.field({.name = "zero_experts", .doc = "MoE++: experts that give 0", .min = 0, .max = 1 << 20}, &c.zero_experts);
  v.field({.name = "copy_experts", .doc = "MoE++: experts that give their input", .min = 0, .max = 1 << 20},
          &c.copy_experts);
  v.field({.name = "constant_experts",
           .doc = "MoE++: experts that mix their input with a learned vector",
           .min = 0,
           .max = 1 << 20},
          &c.constant_experts);
  v.field({.name = "gating_residual", .doc = "MoE++: a layer's router sees the logits of the one before"},
          &c.gating_residual);
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
