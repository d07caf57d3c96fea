// The configuration of a run: one plain struct for each section of the YAML file, parsed once, with every
// default in place. Nothing else in the program looks up a setting by name. load.h makes a `Config` from a
// file, fields.cc names every key, its range and its meaning.
//
// Values are as written in the file: "auto" and null stay open (std::nullopt, or an enum's `automatic`), and no
// arithmetic on ranks is done here; parallel resolves degrees against the world size.
// Plain values: copies are independent, reading from several threads is safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// ---- Closed sets of values. names_of() lists what stands in the file, in the enum's order. ----

enum class DeviceChoice { automatic, cpu, cuda };
enum class GraphUse { automatic, always, never };
enum class ModelFamily { gpt2, llama, qwen2, qwen3 };
enum class NormKind { layer, rms };
enum class Activation { gelu_tanh, gelu_erf, swiglu };
enum class RopeType { none, standard, linear, llama3 };
enum class OptimizerType { adamw };
enum class LrScheduleType { constant, linear, cosine, wsd };
enum class ComputeType { automatic, fp32, bf16, fp8 };
enum class MasterType { fp32, none };
enum class StateType { fp32, bf16 };
enum class PipelineSchedule { gpipe, one_f_one_b, interleaved, zb_h1, zb_v };
enum class KeepGathered { automatic, unit, step };
enum class CommBackend { automatic, nccl, mpi };
enum class MoeRouter { topk };
enum class MoeBalance { aux, bias, none };
enum class AuxScope { sequence, microbatch, global };
enum class DropPolicy { probability, position };
enum class MoeDispatch { alltoall };
enum class RecomputeMode { none, selective, full };

using Names = std::vector<std::string_view>;
inline Names names_of(DeviceChoice) { return {"auto", "cpu", "cuda"}; }
inline Names names_of(GraphUse) { return {"auto", "always", "never"}; }
inline Names names_of(ModelFamily) { return {"gpt2", "llama", "qwen2", "qwen3"}; }
inline Names names_of(NormKind) { return {"layer", "rms"}; }
inline Names names_of(Activation) { return {"gelu_new", "gelu", "silu"}; }  // Hugging Face's names of hidden_act
inline Names names_of(RopeType) { return {"none", "default", "linear", "llama3"}; }
inline Names names_of(OptimizerType) { return {"adamw"}; }
inline Names names_of(LrScheduleType) { return {"constant", "linear", "cosine", "wsd"}; }
inline Names names_of(ComputeType) { return {"auto", "fp32", "bf16", "fp8"}; }
inline Names names_of(MasterType) { return {"fp32", "none"}; }
inline Names names_of(StateType) { return {"fp32", "bf16"}; }
inline Names names_of(PipelineSchedule) { return {"gpipe", "1f1b", "interleaved", "zb_h1", "zb_v"}; }
inline Names names_of(KeepGathered) { return {"auto", "unit", "step"}; }
inline Names names_of(CommBackend) { return {"auto", "nccl", "mpi"}; }
inline Names names_of(MoeRouter) { return {"topk"}; }
inline Names names_of(MoeBalance) { return {"aux", "bias", "none"}; }
inline Names names_of(AuxScope) { return {"sequence", "microbatch", "global"}; }
inline Names names_of(DropPolicy) { return {"probability", "position"}; }
inline Names names_of(MoeDispatch) { return {"alltoall"}; }
inline Names names_of(RecomputeMode) { return {"none", "selective", "full"}; }

template <class E>
requires requires(E value) { names_of(value); }
std::string to_string(E value) { return std::string(names_of(value).at(static_cast<size_t>(value))); }

// ---- The sections ----

struct RunConfig {
  std::string dir = {};                           // run directory; required
  int64_t steps = 0;                              // optimizer steps of the whole run; required
  int64_t seed = 1234;                            // of initial values and sample order
  DeviceChoice device = DeviceChoice::automatic;  // a GPU where there is one, else the CPU
  std::optional<int64_t> threads = {};            // host threads of each rank; nullopt: its share of the cores
  bool deterministic = true;                      // the same layout gives the same bits
  GraphUse cuda_graphs = GraphUse::automatic;     // of a microbatch; auto: where launching takes as long as running
  int64_t log_every = 1;                          // steps; 0: never
  int64_t eval_every = 0;                         // steps; 0: never
  int64_t eval_batches = 8;                       // global batches of one evaluation

  bool operator==(const RunConfig&) const = default;
};

// Rotary position embedding. Angles of pair i: position · theta^(-2i/head_dim), then scaled by `type`.
struct RopeConfig {
  RopeType type = RopeType::standard;  // none: positions are learned (GPT-2)
  double theta = 10000.0;
  double factor = 1.0;                              // linear, llama3: how much longer the context becomes
  double low_freq_factor = 1.0;                     // llama3
  double high_freq_factor = 4.0;                    // llama3
  int64_t original_max_position_embeddings = 8192;  // llama3: context before scaling, tokens

  bool operator==(const RopeConfig&) const = default;
};

// The resolved model: what Hugging Face's config.json says, with the family's defaults filled in.
struct ModelConfig {
  ModelFamily family = ModelFamily::llama;
  int64_t hidden_size = 0;  // C
  int64_t num_layers = 0;
  int64_t num_heads = 0;      // H
  int64_t num_kv_heads = 0;   // divides num_heads
  int64_t head_dim = 0;       // D; hidden_size / num_heads where the file doesn't say
  int64_t ffn_size = 0;       // F
  int64_t vocab_size = 0;     // V, unpadded
  int64_t max_positions = 0;  // tokens; the size of GPT-2's learned position table
  NormKind norm = NormKind::rms;
  double norm_eps = 1e-6;
  Activation activation = Activation::swiglu;
  RopeConfig rope = {};
  bool tie_embeddings = false;      // the head's weight is the embedding's
  bool attention_bias = false;      // biases of q, k and v (Qwen2.5); GPT-2 has biases everywhere
  bool qk_norm = false;             // RMS norm of q and k per head (Qwen3)
  double initializer_range = 0.02;  // standard deviation of initial weights

  bool operator==(const ModelConfig&) const = default;
};

struct DataSource {
  std::string path = {};  // Megatron prefix (PATH.bin, PATH.idx), llm.c .bin or datatrove .ds
  double weight = 1.0;    // share in the blend, relative to the sum

  bool operator==(const DataSource&) const = default;
};

struct DataConfig {
  std::vector<DataSource> train = {};  // required
  std::vector<DataSource> valid = {};  // validation sources of their own; then valid_fraction is not used
  double valid_fraction = 0.02;        // of the documents of each training source, its last ones; 0: none
  std::string tokenizer = "bytes";     // bytes | a SentencePiece .model | a tokenizer.json
  int64_t sequence_length = 256;       // T, tokens
  bool mask_documents = false;         // attention stays inside a document, positions restart

  bool operator==(const DataConfig&) const = default;
};

// The global batch grows from `start` by `increment` sequences at equal distances until `samples` are consumed.
struct BatchRamp {
  int64_t start = 0;      // sequences per step at the beginning
  int64_t increment = 0;  // sequences added at a time
  int64_t samples = 0;    // consumed samples at which the full batch is reached

  bool operator==(const BatchRamp&) const = default;
};

struct BatchConfig {
  int64_t global = 0;  // sequences per step, of all ranks; required
  int64_t micro = 0;   // sequences per data rank and forward pass; required
  std::optional<BatchRamp> ramp = {};

  bool operator==(const BatchConfig&) const = default;
};

struct LrScheduleConfig {
  LrScheduleType type = LrScheduleType::cosine;
  int64_t warmup_steps = 0;                 // linear from 0
  std::optional<int64_t> decay_steps = {};  // linear, cosine: step at which min_lr is reached (nullopt: run.steps);
                                            // wsd: length of the final decay, up to run.steps (nullopt: a tenth)
  double min_lr = 0.0;

  bool operator==(const LrScheduleConfig&) const = default;
};

struct OptimizerConfig {
  OptimizerType type = OptimizerType::adamw;
  double lr = 3.0e-4;  // the peak
  std::array<double, 2> betas = {0.9, 0.95};
  double eps = 1.0e-8;
  double weight_decay = 0.1;    // on parameters of two and more dims
  double clip_grad_norm = 1.0;  // 0: no clipping
  LrScheduleConfig schedule = {};

  bool operator==(const OptimizerConfig&) const = default;
};

struct PrecisionConfig {
  ComputeType compute = ComputeType::automatic;  // bf16 where hardware has it, else fp32
  MasterType master = MasterType::fp32;          // none: bf16 weights with stochastic rounding
  StateType gradients = StateType::fp32;         // accumulation and reduction
  StateType optimizer_states = StateType::fp32;

  bool operator==(const PrecisionConfig&) const = default;
};

inline constexpr int64_t kZeroGroupAll = 0;    // zero_group: all
inline constexpr int64_t kZeroGroupNode = -1;  // zero_group: node

struct ParallelConfig {
  std::optional<int64_t> data = {};  // degree; nullopt: the ranks that the others leave
  int64_t tensor = 1;
  bool sequence = false;  // sequence parallelism on the tensor axis
  int64_t context = 1;
  int64_t pipeline = 1;
  int64_t virtual_stages = 1;  // model chunks per pipeline rank
  PipelineSchedule schedule = PipelineSchedule::one_f_one_b;
  std::optional<std::vector<int64_t>> stages = {};  // layers of each stage; nullopt: balanced
  int64_t expert = 1;
  int64_t expert_tensor = 1;
  int64_t zero = 1;                    // 0-3: what the data ranks share out (Rajbhandari et al. 2020)
  int64_t zero_group = kZeroGroupAll;  // ranks that share shards: kZeroGroupAll, kZeroGroupNode or a count
  KeepGathered keep_gathered = KeepGathered::automatic;
  int64_t prefetch = 1;                          // ZeRO 3: units gathered ahead of the one that runs
  std::optional<int64_t> microbatch_group = {};  // interleaved: microbatches before the next chunk; nullopt: pipeline
  int64_t overlap_tensor = 1;                    // chunks in which a layer's gather or scatter overlaps its product
  CommBackend backend = CommBackend::automatic;
  bool overlap_grad_reduce = true;
  bool overlap_param_gather = true;

  bool operator==(const ParallelConfig&) const = default;
};

struct MoeConfig {
  MoeRouter router = MoeRouter::topk;
  MoeBalance balance = MoeBalance::aux;
  AuxScope aux_scope = AuxScope::microbatch;
  double aux_loss_coef = 0.01;
  double z_loss_coef = 0.0;
  double bias_update_rate = 0.001;
  std::optional<double> capacity_factor = {};  // nullopt: no token is dropped
  DropPolicy drop = DropPolicy::probability;
  MoeDispatch dispatch = MoeDispatch::alltoall;

  bool operator==(const MoeConfig&) const = default;
};

struct RecomputeConfig {
  RecomputeMode mode = RecomputeMode::none;
  std::optional<int64_t> layers = {};  // nullopt: all; else only the first so many layers of the model

  bool operator==(const RecomputeConfig&) const = default;
};

struct CheckpointConfig {
  int64_t every = 100;                           // steps; 0: only at the end and when stopped
  int64_t keep_last = 2;                         // how many of the newest stay; 0: all
  int64_t keep_every = 0;                        // steps; multiples of it stay for good; 0: none
  bool async = true;                             // written behind the next steps
  int64_t host_buffer_bytes = int64_t{4} << 30;  // of each rank: bound of a save's host snapshot
  std::string resume = "auto";                   // auto (the newest of run.dir, if any) | never | a path
  std::optional<std::string> init_from = {};     // Hugging Face directory or checkpoint of starting weights

  bool operator==(const CheckpointConfig&) const = default;
};

struct ProfileConfig {
  std::optional<int64_t> start = {};  // first step that is traced; nullopt: none
  std::optional<int64_t> end = {};    // last step that is traced; nullopt: `start`
  std::vector<int64_t> ranks = {0};
  std::optional<std::string> trace = {};  // file; nullopt: below run.dir/traces

  bool operator==(const ProfileConfig&) const = default;
};

struct Config {
  RunConfig run = {};
  ModelConfig model = {};
  DataConfig data = {};
  BatchConfig batch = {};
  OptimizerConfig optimizer = {};
  PrecisionConfig precision = {};
  ParallelConfig parallel = {};
  MoeConfig moe = {};
  RecomputeConfig recompute = {};
  CheckpointConfig checkpoint = {};
  ProfileConfig profile = {};

  bool operator==(const Config&) const = default;
};

}  // namespace trireme
