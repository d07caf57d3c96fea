// Drawings of timelines, and `trireme plan` from end to end.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "launcher/commands.h"
#include "parallel/pipeline/make_schedule.h"
#include "parallel/pipeline/timeline_drawing.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

std::string read(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

Timeline known_timeline(double transfer = 0) {
  const Schedule schedule = make_schedule(PipelineSchedule::one_f_one_b, 2, 1, 2);
  return simulate(schedule, ActionCosts::uniform(2, 1, 1, 1, transfer));
}

// F0 0–1, F1 1–2, then rank 1's first backward ends at 4, the second at 7.
TEST(PipelineTimeline, TimesOfAKnownSchedule) {
  const Timeline free = known_timeline();
  std::string times;
  for (const TimedAction& timed : free.ranks[0]) {
    if (is_compute(timed.action.kind)) times += timed.action.str() + " " + std::to_string(int(timed.begin)) + "\n";
  }
  EXPECT_EQ(times,
            "forward(chunk 0, microbatch 0) 0\nforward(chunk 0, microbatch 1) 1\n"
            "backward(chunk 0, microbatch 0) 4\nbackward(chunk 0, microbatch 1) 7\n");
  EXPECT_EQ(free.end(), 9);
  EXPECT_DOUBLE_EQ(free.bubble(0), 3.0 / 6);
  EXPECT_DOUBLE_EQ(free.bubble(1), 0);
  // With transfers of half a unit, one activation is late at first, and each gradient.
  EXPECT_EQ(known_timeline(0.5).end(), 10);
}

// Transfers of three units: one begins when both sides have posted it and the one before it on that way is done.
TEST(PipelineTimeline, TransfersTakeTurns) {
  using enum ActionKind;
  const auto end = [](std::vector<Action> receiver) {
    const Schedule schedule{
        .name = "by hand",
        .num_ranks = 2,
        .num_chunks = 2,
        .num_microbatches = 2,
        .forward_only = true,
        .rank_of_chunk = {0, 1},
        .programs = {{{forward, 0, 0}, {send_activation, 0, 0, 1}, {forward, 0, 1}, {send_activation, 0, 1, 1}},
                     std::move(receiver)}};
    return simulate(schedule, ActionCosts::uniform(2, 1, 1, 1, /*transfer=*/3)).end();
  };
  // The first from 1 to 4; the second from 4 on, or only when the receive is posted, at 5.
  EXPECT_EQ(end({{recv_activation, 1, 0, 0}, {recv_activation, 1, 1, 0}, {forward, 1, 0}, {forward, 1, 1}}), 8);
  EXPECT_EQ(end({{recv_activation, 1, 0, 0}, {forward, 1, 0}, {recv_activation, 1, 1, 0}, {forward, 1, 1}}), 9);
}

TEST(PipelineTimeline, SvgShowsEachComputationAndEachBubble) {
  const std::string svg = draw_svg(known_timeline(), {.title = "a < b", .unit = "ms"});
  EXPECT_EQ(count(svg, "<title>forward("), 4);
  EXPECT_EQ(count(svg, "<title>backward("), 4);
  EXPECT_EQ(count(svg, "<title>bubble, "), 2);
  EXPECT_EQ(count(svg, "<title>bubble, 2 to 4 ms</title>"), 1);
  EXPECT_EQ(count(svg, "a &lt; b"), 1);
  EXPECT_EQ(count(svg, ">rank 0<") + count(svg, ">rank 1<"), 2);
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

TEST(PipelineTimeline, PerfettoHasEveryAction) {
  const auto trace =
      nlohmann::json::parse(draw_perfetto(known_timeline(0.5), {.title = {}, .unit = {}, .unit_microseconds = 10}));
  double bubbles = 0;
  int computations = 0;
  int transfers = 0;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    if (event["name"] == "bubble") {
      bubbles += event["dur"].get<double>();
    } else {
      ++(event["tid"] == 0 ? computations : transfers);
      EXPECT_EQ(event["args"].contains("peer"), event["tid"] != 0);
    }
  }
  EXPECT_EQ(computations, 8);
  EXPECT_EQ(transfers, 8);
  EXPECT_DOUBLE_EQ(bubbles, 40);  // 4 units, all on rank 0
}

// A configuration file and a folder for the life of the test.
class PlanCommand : public ::testing::Test {
 protected:
  PlanCommand() : folder_(fs::path(::testing::TempDir()) / ("plan_test-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
    args_.config = (folder_ / "plan.yaml").string();
    std::ofstream(args_.config) << R"(run: {dir: runs/x, steps: 4}
model: {model_type: llama, hidden_size: 8, num_hidden_layers: 8, num_attention_heads: 2, intermediate_size: 8,
        vocab_size: 16, max_position_embeddings: 8}
data: {train: [{path: nowhere/data}], sequence_length: 4}
batch: {global: 16, micro: 2}
parallel: {pipeline: 4}
)";
  }
  ~PlanCommand() override { fs::remove_all(folder_); }

  std::string run() {
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(plan_command(args_), 0);
    return ::testing::internal::GetCapturedStdout();
  }

  fs::path folder_;
  PlanArgs args_;
};

// A layer multiplies 256 + 192 elements and scores as much as 32; two of them are a chunk, the head has 128. So the last rank
// takes 3 + 3 · 0.133 for a microbatch: 3 + 8 · 3.4 + 6 in all, of which the first rank works 24.
TEST_F(PlanCommand, PrintsTheSchedule) {
  EXPECT_EQ(run(), R"(  layout       data 1 × pipeline 4 = 4 ranks
  memory       31.4 KiB per rank at most: parameters 2.1 KiB, gradients 4.1 KiB, optimizer 12.4 KiB, activations ~12.9 KiB
  schedule     1f1b, 4 ranks, 8 microbatches
  layers       2, 2, 2, 2 (of each chunk)
  work         1.00, 1.00, 1.00, 1.13 (of each chunk, the head's in the last; an average chunk's layers are 1)
  bubble       50.8 % of the work, with times 1:1:1 and free transfers
  stashes      4, 3, 2, 1 (of each pipeline rank, one for a microbatch in a chunk, at most)
)");
  args_.sets = {"parallel.schedule=zb_h1"};
  args_.gpus = 8;  // data 2: half the microbatches
  const std::string text = run();
  EXPECT_EQ(count(text, "data 2 × "), 1) << text;
  EXPECT_EQ(count(text, "zb_h1, 4 ranks, 4 microbatches\n"), 1) << text;
  EXPECT_EQ(count(text, "bubble       38.3 %"), 1) << text;  // 3 + 4 · 0.4 of 12
}

TEST_F(PlanCommand, JsonAndTimeline) {
  args_.sets = {"parallel.schedule=zb_v"};
  args_.json = true;
  args_.timeline = (folder_ / "out.svg").string();
  const auto plan = nlohmann::json::parse(run());
  EXPECT_EQ(plan["virtual_stages"], 2);
  // Of a layer in each chunk the head makes 0.267; the other ranks stand idle while the first one computes it.
  EXPECT_NEAR(plan["bubble"], 0.8 / 6, 1e-9);
  EXPECT_NEAR(plan["bubble_of_rank"][0], 0, 1e-9);
  EXPECT_EQ(plan["layers_of_chunk"], std::vector<int>(8, 1));
  EXPECT_EQ(plan["peak_stashes_of_rank"], std::vector<int>(4, 8));
  EXPECT_TRUE(read(folder_ / "out.svg").find("zb_v, 4 ranks × 2 chunks, 8 microbatches, bubble 13.3 %") !=
              std::string::npos);
  EXPECT_GT(nlohmann::json::parse(read(folder_ / "out.json"))["traceEvents"].size(), 8u * 8 * 3);
}

// Uneven chunks: the slowest rank sets the pace.
TEST_F(PlanCommand, TimesFollowTheLayers) {
  args_.sets = {"parallel.stages=[1, 1, 1, 5]", "batch.global=64"};
  args_.json = true;
  const auto plan = nlohmann::json::parse(run());
  EXPECT_GT(plan["bubble_of_rank"][0], 3.0);
  EXPECT_EQ(plan["bubble_of_rank"][3], 0.0);
}

// Elements that a token is multiplied with, and a sixth of the scores' FLOPs.
TEST_F(PlanCommand, WorkIsThatOfTheLayersOfAChunk) {
  args_.json = true;
  const auto work_of = [&](const std::string& model) {
    args_.sets = {"model=" + model, "parallel.pipeline=2"};
    return nlohmann::json::parse(run())["work_of_chunk"].get<std::vector<double>>();
  };
  const double attention = 256 + 32;
  const double dense = attention + 3 * 8 * 24;
  const double experts = attention + 4 * 8 + 2 * 3 * 8 * 8;
  std::vector<double> work = work_of(
      "{model_type: qwen3_moe, hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, "
      "head_dim: 4, intermediate_size: 24, moe_intermediate_size: 8, num_experts: 4, num_experts_per_tok: 2, "
      "mlp_only_layers: [0], vocab_size: 16, max_position_embeddings: 8}");
  ASSERT_EQ(work.size(), 2u);
  EXPECT_NEAR(work[0], dense / ((dense + experts) / 2), 1e-9);
  EXPECT_NEAR(work[1], (experts + 128) / ((dense + experts) / 2), 1e-9);

  // The last chunk's module of multi-token prediction: a layer, what joins its inputs, the head again.
  work = work_of(
      "{model_type: deepseek_v3, hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2, q_lora_rank: null, "
      "kv_lora_rank: 4, qk_nope_head_dim: 2, qk_rope_head_dim: 2, v_head_dim: 4, intermediate_size: 24, "
      "moe_intermediate_size: 8, n_routed_experts: 4, num_experts_per_tok: 2, n_shared_experts: 1, n_group: 1, "
      "topk_group: 1, first_k_dense_replace: 1, num_nextn_predict_layers: 1, vocab_size: 16, "
      "max_position_embeddings: 8}");
  const double latent = 64 + 48 + 48 + 64 + 32;
  const double first = latent + 3 * 8 * 24;
  const double second = latent + 4 * 8 + 3 * 3 * 8 * 8;
  ASSERT_EQ(work.size(), 2u);
  EXPECT_NEAR(work[0], first / ((first + second) / 2), 1e-9);
  EXPECT_NEAR(work[1], (second + 128 + second + 2 * 8 * 8 + 128) / ((first + second) / 2), 1e-9);
}

TEST_F(PlanCommand, WrongOptionsAreRefused) {
  args_.timeline = "out.png";
  EXPECT_THROW(plan_command(args_), ConfigError);
  args_.timeline.clear();
  for (const char* times : {"", "1:1", "1:1:1:1", "1:x:1", "1:0:1", "1:1:-1", "1:1:1e999", "1: :1"}) {
    args_.times = times;
    EXPECT_THROW(plan_command(args_), ConfigError) << times;
  }
}

}  // namespace
}  // namespace trireme
