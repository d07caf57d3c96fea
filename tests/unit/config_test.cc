#include "core/config/config.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>

#include "core/config/load.h"
#include "core/config/units.h"
#include "tests/unit/config_testing.h"

namespace trireme {
namespace {

using testing::message;

const char* kMinimal = R"(run: {dir: runs/x, steps: 400}
model:
  model_type: llama
  hidden_size: 192
  num_hidden_layers: 4
  num_attention_heads: 3
  intermediate_size: 512
  vocab_size: 256
  max_position_embeddings: 256
data: {train: [{path: data/kjv}]}
batch: {global: 32, micro: 8}
)";

Config parse(const std::string& more = "", const std::vector<std::string>& sets = {}) {
  return parse_config(kMinimal + more, "a.yaml", sets);
}

std::string set_message(const std::string& set) {
  return message([&] { parse("", {set}); });
}

TEST(Config, DefaultsAreThoseOfTheReference) {
  const Config c = parse();
  EXPECT_EQ(c.run.dir, "runs/x");
  EXPECT_EQ(c.run.steps, 400);
  EXPECT_EQ(c.run.seed, 1234);
  EXPECT_EQ(c.run.threads, std::nullopt);
  EXPECT_TRUE(c.run.deterministic);
  EXPECT_EQ(c.model.num_kv_heads, 3);
  EXPECT_EQ(c.model.head_dim, 64);
  EXPECT_EQ(c.model.rope.type, RopeType::standard);
  EXPECT_FALSE(c.model.tie_embeddings);
  ASSERT_EQ(c.data.train.size(), 1u);
  EXPECT_EQ(c.data.train[0], (DataSource{"data/kjv", 1.0}));
  EXPECT_EQ(c.data.sequence_length, 256);
  EXPECT_EQ(c.batch.ramp, std::nullopt);
  EXPECT_EQ(c.optimizer.lr, 3e-4);
  EXPECT_EQ(c.optimizer.betas, (std::array<double, 2>{0.9, 0.95}));
  EXPECT_EQ(c.optimizer.schedule.type, LrScheduleType::cosine);
  EXPECT_EQ(c.parallel.schedule, PipelineSchedule::one_f_one_b);
  EXPECT_EQ(c.checkpoint.host_buffer_bytes, int64_t{4} << 30);
  EXPECT_EQ(c.profile.ranks, std::vector<int64_t>{0});
}

TEST(Config, ReadsEveryKindOfValue) {
  const Config c = parse(R"(
optimizer:
  lr: 4e-3
  betas: [0.8, 0.99]
  schedule: {type: wsd, warmup_steps: 2k, decay_steps: 100, min_lr: .001}
precision: {compute: bf16}
parallel: {data: 2, stages: [1, 3]}
recompute: {mode: selective, layers: 2}
checkpoint: {every: 0, async: false, host_buffer: 512MiB, resume: never, init_from: "weights dir"}
)",
                         {"run.device=cpu", "run.threads=3", "batch.ramp={start: 8, increment: 8, samples: 1M}"});
  EXPECT_EQ(c.optimizer.lr, 4e-3);
  EXPECT_EQ(c.optimizer.betas[1], 0.99);
  EXPECT_EQ(c.optimizer.schedule, (LrScheduleConfig{LrScheduleType::wsd, 2000, 100, 0.001}));
  EXPECT_EQ(c.precision.compute, ComputeType::bf16);
  EXPECT_EQ(c.parallel.data, 2);
  EXPECT_EQ(c.parallel.stages, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(c.recompute.mode, RecomputeMode::selective);
  EXPECT_EQ(c.recompute.layers, 2);
  EXPECT_EQ(c.checkpoint.host_buffer_bytes, int64_t{512} << 20);
  EXPECT_FALSE(c.checkpoint.async);
  EXPECT_EQ(c.checkpoint.init_from, "weights dir");
  EXPECT_EQ(c.run.device, DeviceChoice::cpu);
  EXPECT_EQ(c.run.threads, 3);
  EXPECT_EQ(c.batch.ramp, (BatchRamp{8, 8, 1000000}));
}

TEST(Config, SetBeatsTheFileAndReachesInside) {
  const Config c = parse("optimizer: {lr: 1.0, schedule: {warmup_steps: 5}}\n",
                         {"optimizer.schedule.min_lr=0.25", "optimizer.lr=0.5", "data.train.0.weight=2", "run.steps=7",
                          "run.steps=8", "recompute={mode: full}", "run.threads=auto"});
  EXPECT_EQ(c.optimizer.lr, 0.5);
  EXPECT_EQ(c.optimizer.schedule.warmup_steps, 5);
  EXPECT_EQ(c.optimizer.schedule.min_lr, 0.25);
  EXPECT_EQ(c.data.train[0], (DataSource{"data/kjv", 2.0}));
  EXPECT_EQ(c.run.steps, 8);
  EXPECT_EQ(c.recompute.mode, RecomputeMode::full);
}

TEST(Config, DumpLoadsToTheSame) {
  for (const char* model : {"llama", "qwen2", "qwen3"}) {
    const Config c = parse(
        "", {"model.model_type=" + std::string(model), "model.rms_norm_eps=1.25e-6",
             "model.rope_scaling={rope_type: llama3, factor: 8, low_freq_factor: 1, "
             "high_freq_factor: 4, original_max_position_embeddings: 64}",
             "model.head_dim=32", "optimizer.lr=0.1", "optimizer.eps=1.2345678901234567e-11",
             "data.train=[{path: 'a b: \"c\"\t#d', weight: 3}, {path: null.bin}, {path: ü}]", "data.valid=[{path: v}]",
             "batch.ramp={start: 8, increment: 8, samples: 100}", "parallel.stages=[2, 2]", "run.dir='~'",
             "checkpoint.host_buffer=13000001", "recompute.layers=1", "profile.ranks=[0, 3]", "data.tokenizer='-x'"});
    const std::string text = dump_config(c);
    EXPECT_EQ(parse_config(text, "dump.yaml"), c) << text;
  }
  const Config gpt2 = parse_config(R"(run: {dir: r, steps: 1}
model: {model_type: gpt2, n_embd: 64, n_layer: 2, n_head: 4, vocab_size: 100, n_positions: 256}
data: {train: [{path: d}]}
batch: {global: 1, micro: 1}
)",
                                   "g.yaml");
  EXPECT_EQ(parse_config(dump_config(gpt2), "dump.yaml"), gpt2) << dump_config(gpt2);
}

// ---- Refusals: what, expected, found, where, nearest ----

TEST(ConfigError, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(message([] { parse("optimizer:\n  lr: 1e-3\n  wieght_decay: 0.1\n"); }),
            "unknown key optimizer.wieght_decay at a.yaml:14; try optimizer.weight_decay");
  EXPECT_EQ(set_message("run.stepz=3"), "unknown key run.stepz at --set run.stepz; try run.steps");
  EXPECT_EQ(message([] { parse("optimiser: {lr: 1}\n"); }), "unknown key optimiser at a.yaml:12; try optimizer");
  EXPECT_EQ(set_message("model.hiden_size=3"),
            "unknown key model.hiden_size at --set model.hiden_size; try model.hidden_size");
  // A key of another section.
  EXPECT_EQ(message([] { parse("sequence_length: 12\n"); }),
            "unknown key sequence_length at a.yaml:12; try data.sequence_length");
  EXPECT_NE(set_message("run.clip_grad_norm=1").find("try optimizer.clip_grad_norm"), std::string::npos);
  EXPECT_NE(message([] { parse("optimizer.lr: 1\n"); }).find("optimizer: {lr: …}"), std::string::npos);
  // Inside a list, and nothing near.
  EXPECT_NE(set_message("data.train.0.pth=1")
                .find("unknown key data.train.0.pth at --set data.train.0.pth; try "
                      "data.train.0.path"),
            std::string::npos);
  EXPECT_NE(set_message("batch.zzzzzzzzzzzz=1").find("expected one of global, micro, ramp"), std::string::npos);
  // GPT-2's names are not llama's.
  EXPECT_NE(set_message("model.n_embd=8").find("unknown key model.n_embd"), std::string::npos);
}

TEST(ConfigError, WrongTypes) {
  EXPECT_EQ(message([] { parse("checkpoint:\n  every: often\n"); }),
            "checkpoint.every has the wrong type (expected an integer, at least 0, found 'often') at a.yaml:13");
  EXPECT_EQ(set_message("run.steps='7'"),
            "run.steps has the wrong type (expected an integer, at least 1, found the string \"7\") at --set "
            "run.steps");
  for (const char* set : {"run.steps=1.5",
                          "run.steps=null",
                          "run.steps=[1]",
                          "run.steps={a: 1}",
                          "run.steps=true",
                          "run.steps=99999999999999999999",
                          "run.deterministic=yes",
                          "run.deterministic=1",
                          "optimizer.lr=fast",
                          "optimizer.lr=.nan",
                          "optimizer.lr=.inf",
                          "optimizer.betas=[0.9]",
                          "optimizer.betas=0.9",
                          "run.threads=many",
                          "run.dir=[a]",
                          "run=3",
                          "data.train={path: x}",
                          "data.train=[x]",
                          "parallel.stages=[a]",
                          "profile.ranks=0",
                          "checkpoint.host_buffer=4GB",
                          "model=3",
                          "model.rope_scaling=[8]",
                          "batch.ramp=4",
                          "run.dir.deep=1"}) {
    EXPECT_NE(set_message(set).find("has the wrong type"), std::string::npos) << set << ": " << set_message(set);
  }
}

TEST(ConfigError, OutOfRange) {
  EXPECT_EQ(set_message("parallel.zero=4"),
            "parallel.zero is out of range (expected an integer from 0 to 3, found '4') at --set parallel.zero; try 3");
  EXPECT_EQ(set_message("run.steps=-1"),
            "run.steps is out of range (expected an integer, at least 1, found '-1') at --set run.steps; try 1");
  for (const char* set :
       {"run.steps=0", "run.log_every=-1", "run.threads=0", "optimizer.betas=[0.9, 1.0]", "optimizer.betas=[-0.1, 0.9]",
        "optimizer.lr=-1", "data.valid_fraction=1", "data.train=[{path: a, weight: 0}]", "batch.micro=0",
        "moe.capacity_factor=0", "parallel.tensor=0", "parallel.zero_group=-1", "model.vocab_size=0",
        "checkpoint.host_buffer=-1GiB", "checkpoint.host_buffer=11MiB", "data.sequence_length=0"}) {
    EXPECT_NE(set_message(set).find("is out of range"), std::string::npos) << set << ": " << set_message(set);
  }
}

TEST(ConfigError, UnknownValues) {
  EXPECT_EQ(set_message("parallel.schedule=1fb1"),
            "parallel.schedule has an unknown value (expected gpipe | 1f1b | interleaved | zb_h1 | zb_v, found '1fb1') "
            "at --set parallel.schedule; try 1f1b");
  EXPECT_NE(set_message("run.device=gpu").find("expected auto | cpu | cuda"), std::string::npos);
  EXPECT_NE(set_message("model.model_type=lama").find("try llama"), std::string::npos);
}

TEST(ConfigError, MissingKeysAreNamedTogether) {
  EXPECT_EQ(message([] { parse_config("run: {steps: 3}\n", "b.yaml"); }),
            "required keys are missing: run.dir, model.model_type, model.hidden_size, model.num_hidden_layers, "
            "model.num_attention_heads, model.intermediate_size, model.vocab_size, model.max_position_embeddings, "
            "data.train, batch.global, batch.micro at b.yaml; try adding run.dir to the file or --set run.dir=…");
  EXPECT_NE(message([] { parse_config("", "b.yaml"); }).find("run.dir, run.steps"), std::string::npos);
  EXPECT_NE(set_message("data.train=[]").find("data.train is empty"), std::string::npos);
  EXPECT_NE(set_message("data.train=[{weight: 1}]").find("a required key is missing: data.train.0.path"),
            std::string::npos);
  EXPECT_NE(set_message("run.dir=\"\"").find("run.dir is empty"), std::string::npos);
}

TEST(ConfigError, BrokenYaml) {
  EXPECT_NE(message([] { parse("run: {dir: y}\n"); }).find("key 'run' stands twice at a.yaml:12"), std::string::npos);
  EXPECT_NE(message([] { parse("moe: {drop: position, drop: position}\n"); }).find("'drop' stands twice"),
            std::string::npos);
  EXPECT_NE(message([] { parse("optimizer: {lr: 1\nx: ]\n"); }).find("the YAML can't be read"), std::string::npos);
  EXPECT_NE(message([] { parse_config("a\n", "b.yaml"); }).find("not a map of sections"), std::string::npos);
  EXPECT_NE(message([] { parse("---\nrun: {}\n"); }).find("several YAML documents"), std::string::npos);
  EXPECT_NE(message([] { parse("? [a, b]\n: 1\n"); }).find("a key is not a plain word at a.yaml:12"),
            std::string::npos);
  EXPECT_NE(message([] { parse("moe: &a {x: *a}\n"); }).find("nested too deeply"), std::string::npos);
  EXPECT_NE(
      message([] { load_config("no/such.yaml"); }).find("can't be read (expected a readable file) at no/such.yaml"),
      std::string::npos);
  EXPECT_NE(message([] { load_config("/"); }).find("can't be read"), std::string::npos);
}

TEST(ConfigError, BrokenSet) {
  for (const char* set : {"run.steps", "=3", ".run=1", "run..steps=1", "run.=1"}) {
    EXPECT_NE(set_message(set).find("--set can't be read (expected key=value"), std::string::npos) << set;
  }
  EXPECT_NE(set_message("run={").find("the YAML can't be read"), std::string::npos);
  EXPECT_NE(set_message("data.train.1.path=x").find("no such entry in the list"), std::string::npos);
}

TEST(ConfigError, Contradictions) {
  EXPECT_EQ(set_message("batch.global=33"),
            "batch.global is not a multiple of batch.micro (expected a multiple of 8, "
            "found 33) at --set batch.global; try 32 or 40");
  EXPECT_NE(set_message("batch.ramp={start: 64, increment: 8, samples: 9}").find("batch.ramp.start is above"),
            std::string::npos);
  EXPECT_NE(set_message("optimizer.schedule.min_lr=1").find("min_lr is above optimizer.lr"), std::string::npos);
  EXPECT_EQ(message([] { parse("precision: {compute: fp32}\n", {"precision.master=none"}); }),
            "precision.master: none keeps the weights in bf16 alone, and precision.compute is fp32 (expected "
            "precision.compute: bf16 or auto, found fp32) at --set precision.master; try precision.master: fp32, which "
            "takes no memory of its own when the compute is fp32");
  EXPECT_NE(message([] {
              parse("", {"run.eval_every=5", "data.valid_fraction=0"});
            }).find("no validation data"),
            std::string::npos);
}

TEST(ConfigError, WhatIsNotBuiltSaysSo) {
  for (const char* set : {"parallel.context=2", "precision.compute=fp8", "model.model_type=mistral"}) {
    EXPECT_NE(set_message(set).find("isn't built yet"), std::string::npos) << set << ": " << set_message(set);
  }
  EXPECT_EQ(set_message("parallel.context=2"),
            "parallel.context 2 isn't built yet (expected 1, found 2) at --set "
            "parallel.context; try parallel.context: 1");
}

// ---- Units ----

TEST(Units, ParseAndPrint) {
  EXPECT_EQ(parse_count("20k"), 20000);
  EXPECT_EQ(parse_count("1.5M"), 1500000);
  EXPECT_EQ(parse_count("1.005k"), 1005);
  EXPECT_EQ(parse_count("2B"), 2000000000);
  EXPECT_EQ(parse_count("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(parse_count("-3"), -3);
  EXPECT_EQ(parse_bytes("4GiB"), int64_t{4} << 30);
  EXPECT_EQ(parse_bytes("0.5KiB"), 512);
  EXPECT_EQ(parse_bytes("1TiB"), int64_t{1} << 40);
  EXPECT_EQ(parse_seconds("30s"), 30.0);
  EXPECT_EQ(parse_seconds("10min"), 600.0);
  EXPECT_EQ(parse_seconds("1.5h"), 5400.0);
  EXPECT_EQ(parse_seconds("2"), 2.0);
  EXPECT_EQ(parse_real(".5"), 0.5);
  EXPECT_EQ(parse_real("+3e-4"), 3e-4);
  for (const char* bad : {"", "k", "1.5", "12q", "1 k", "0x10", "nan", "1e30k", "4GB"}) {
    EXPECT_EQ(parse_count(bad), std::nullopt) << bad;
  }
  for (const char* bad : {"", "GiB", "1.3", "4GB", "inf"}) EXPECT_EQ(parse_bytes(bad), std::nullopt) << bad;
  EXPECT_EQ(parse_real("nan"), std::nullopt);
  EXPECT_EQ(exact_bytes(int64_t{4} << 30), "4GiB");
  EXPECT_EQ(exact_bytes(1536), "1536");
  EXPECT_EQ(exact_bytes(3 << 20), "3MiB");
  EXPECT_EQ(exact_bytes(0), "0");
  EXPECT_EQ(exact_real(0.1), "0.1");
}

TEST(ConfigReference, NamesEveryKey) {
  const std::string text = config_reference();
  for (const char* key : {"`run.dir`", "`model.hidden_size`", "`model.rope_scaling.low_freq_factor`",
                          "`model.rope_scaling.mscale_all_dim`", "`data.train.N.path`", "`batch.ramp.samples`",
                          "`optimizer.schedule.decay_steps`", "`checkpoint.host_buffer`", "`profile.trace`", "`4GiB`",
                          "| required |", "auto, integer ≥ 1", "`moe.gating_residual`", "`model.num_local_experts`",
                          "(qwen2_moe, qwen3_moe)", "`model.num_nextn_predict_layers`"}) {
    EXPECT_NE(text.find(key), std::string::npos) << key << "\n" << text;
  }
}

}  // namespace
}  // namespace trireme
