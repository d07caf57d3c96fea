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
enum class ModelFamily { gpt2, llama, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3 };
enum class NormKind { layer, rms };
enum class Activation { gelu_tanh, gelu_erf, swiglu };
enum class RopeType { none, standard, linear, llama3, yarn };
enum class OptimizerType { adamw };
enum class LrScheduleType { constant, linear, cosine, wsd };
enum class ComputeType { automatic, fp32, bf16, fp8 };
enum class MasterType { fp32, none };
enum class StateType { fp32, bf16 };
enum class PipelineSchedule { gpipe, one_f_one_b, interleaved, zb_h1, zb_v };
enum class KeepGathered { automatic, unit, step };
enum class CommBackend { automatic, nccl, mpi };
enum class MoeRouter { topk, switch_top1, base, expert_choice, hash };
enum class MoeBalance { aux, bias, none };
enum class AuxScope { sequence, microbatch, global };
enum class DropPolicy { probability, position };
enum class MoeDispatch { alltoall, allgather };
enum class RouterScoring { softmax, sigmoid };
enum class GroupScore { best, sum_of_best_two };
enum class RecomputeMode { none, selective, full };

using Names = std::vector<std::string_view>;
inline Names names_of(DeviceChoice) { return {"auto", "cpu", "cuda"}; }
inline Names names_of(GraphUse) { return {"auto", "always", "never"}; }
inline Names names_of(ModelFamily) {
  return {"gpt2", "llama", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"};
}
inline Names names_of(NormKind) { return {"layer", "rms"}; }
inline Names names_of(Activation) { return {"gelu_new", "gelu", "silu"}; }  // Hugging Face's names of hidden_act
inline Names names_of(RopeType) { return {"none", "default", "linear", "llama3", "yarn"}; }
inline Names names_of(OptimizerType) { return {"adamw"}; }
inline Names names_of(LrScheduleType) { return {"constant", "linear", "cosine", "wsd"}; }
inline Names names_of(ComputeType) { return {"auto", "fp32", "bf16", "fp8"}; }
inline Names names_of(MasterType) { return {"fp32", "none"}; }
inline Names names_of(StateType) { return {"fp32", "bf16"}; }
inline Names names_of(PipelineSchedule) { return {"gpipe", "1f1b", "interleaved", "zb_h1", "zb_v"}; }
inline Names names_of(KeepGathered) { return {"auto", "unit", "step"}; }
inline Names names_of(CommBackend) { return {"auto", "nccl", "mpi"}; }
inline Names names_of(MoeRouter) { return {"topk", "switch", "base", "expert_choice", "hash"}; }
inline Names names_of(MoeBalance) { return {"aux", "bias", "none"}; }
inline Names names_of(AuxScope) { return {"sequence", "microbatch", "global"}; }
inline Names names_of(DropPolicy) { return {"probability", "position"}; }
inline Names names_of(MoeDispatch) { return {"alltoall", "allgather"}; }
inline Names names_of(RouterScoring) { return {"softmax", "sigmoid"}; }
inline Names names_of(GroupScore) { return {"best", "sum_of_best_two"}; }
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
  double hang_timeout = 1800;                     // seconds that a call may wait for other ranks; 0: for ever
  int64_t log_every = 1;                          // steps; 0: never
  int64_t eval_every = 0;                         // steps; 0: never
  int64_t eval_batches = 8;                       // global batches of one evaluation

  bool operator==(const RunConfig&) const = default;
};

// Rotary position embedding. Angles of pair i: position · theta^(-2i/head_dim), then scaled by `type`.
struct RopeConfig {
  RopeType type = RopeType::standard;  // none: positions are learned (GPT-2)
  double theta = 10000.0;
  double factor = 1.0;                           // how much longer the context becomes
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3
  int64_t original_max_position_embeddings = 0;  // llama3, yarn: context before scaling, tokens
  // yarn: pairs that turn `beta_fast` times and more in that context are kept, those that turn `beta_slow` times and
  // fewer are divided by `factor`, those between them are blended.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;  // the blend's two ends are whole pairs
  double mscale = 0.0;   // of the magnitude of rotated queries and keys (models/rotary_table.h); 0: not given
  double mscale_all_dim = 0.0;
  std::optional<double> attention_factor = {};  // that magnitude itself; nullopt: from `factor` and the two above

  bool operator==(const RopeConfig&) const = default;
};

// Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1): keys and values come of one narrow latent.
struct LatentAttentionConfig {
  int64_t q_rank = 0;    // of the queries' latent; 0: none, queries are projected at once
  int64_t kv_rank = 0;   // of the latent of keys and values; 0: ordinary attention
  int64_t nope_dim = 0;  // of each query and key head, without positions
  int64_t rope_dim = 0;  // of each query head, and of the one key that all heads share, rotated; pairs interleaved
  int64_t v_dim = 0;     // of each value head

  bool operator==(const LatentAttentionConfig&) const = default;
};

// Mixture-of-experts layers: what decides which parameters there are and what a token computes. How experts are trained
// and kept even stands in MoeConfig.
struct ExpertsConfig {
  int64_t num_experts = 0;                 // E, with a feed-forward network each; 0: a dense model
  int64_t top_k = 0;                       // K, experts of a token
  int64_t ffn_size = 0;                    // F of one expert
  int64_t shared_ffn_size = 0;             // F of the shared experts together, which every token passes; 0: none
  bool shared_gate = false;                // their output is weighed by sigmoid(w·x) (Qwen2-MoE)
  int64_t num_dense_first = 0;             // the first so many layers are dense
  int64_t period = 1;                      // of the others, every `period`-th has experts: (layer + 1) % period == 0
  std::vector<int64_t> dense_layers = {};  // these are dense, too
  RouterScoring scoring = RouterScoring::softmax;
  bool score_bias = false;  // selection adds a bias for each expert (DeepSeek-V3), which no gradient reaches
  bool normalize = true;    // weights of the chosen are divided by their sum; with softmax this is a softmax of
                            // the chosen logits alone
  double scaling = 1.0;     // and then multiplied with this
  int64_t num_groups = 1;   // experts are chosen from the best `groups_per_token` of so many groups
  int64_t groups_per_token = 1;
  GroupScore group_score = GroupScore::best;
  // MoE++ (Jin et al. 2024): experts that compute next to nothing, numbered behind the E real ones in this order.
  int64_t num_zero = 0;          // output 0
  int64_t num_copy = 0;          // output x
  int64_t num_constant = 0;      // output a·x + b·v, (a, b) = softmax(W·x), v learned
  bool gating_residual = false;  // a layer's router sees the logits of the one before

  int64_t num_choices() const { return num_experts + num_zero + num_copy + num_constant; }  // outputs of the router

  bool operator==(const ExpertsConfig&) const = default;
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
  LatentAttentionConfig latent = {};
  ExpertsConfig experts = {};
  int64_t num_predictors = 0;  // multi-token prediction modules behind the last layer (DeepSeek-V3)

  // Whether the feed-forward half of this layer consists of experts.
  bool has_experts(int64_t layer) const;

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
  std::optional<double> aux_loss_coef = {};  // nullopt until the model is read: config.json's, else 0.01
  double z_loss_coef = 0.0;                  // Zoph et al. 2022, "ST-MoE"
  double bias_update_rate = 0.001;
  std::optional<double> capacity_factor = {};  // nullopt: no token is dropped
  DropPolicy drop = DropPolicy::probability;
  MoeDispatch dispatch = MoeDispatch::alltoall;
  int64_t dispatch_chunks = 1;   // tokens travel in so many parts, each beside the products of the one before
  double prediction_coef = 0.3;  // weight of the loss of multi-token prediction
  // MoE++'s τ: what an expert that computes nothing weighs in the balance loss, where a real one weighs 1. Capacity is
  // the other way round: a real expert has τ times that of one that computes nothing.
  double constant_share = 0.75;
  // Here and not in `model` because no config.json knows them; they become a part of ModelConfig::experts.
  int64_t zero_experts = 0;
  int64_t copy_experts = 0;
  int64_t constant_experts = 0;
  bool gating_residual = false;

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
