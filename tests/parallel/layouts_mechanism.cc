#include "tests/parallel/layouts_mechanism.h"

#include <algorithm>
#include <cmath>

#include "launcher/rank_model.h"
#include "parallel/resolve.h"

namespace trireme::layouts {

namespace {

constexpr int64_t kScalarBytes = 64;   // counts, sums of losses and squares
constexpr size_t kStep = 1;            // the second step: everything is as it stays
constexpr int64_t kGradientBytes = 4;  // an element; layouts keep gradients in fp32

class Check {
 public:
  Check(const Config& config, const std::vector<RankRecord>& ranks)
      : config_(config),
        p_(config.parallel),
        ranks_(ranks),
        width_(config.precision.compute == ComputeType::bf16 ? 2 : 4),
        microbatches_(resolve_microbatches(config.batch.global, config.batch.micro, *p_.data)) {}

  std::vector<std::string> run() {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      rank_ = &ranks_[r];
      who_ = "rank " + std::to_string(r) + ": ";
      check_data();
      check_tensor();
      check_memory();
    }
    check_pipeline();
    return std::move(findings_);
  }

 private:
  void expect(bool good, const std::string& text) {
    if (!good) findings_.push_back(who_ + text);
  }
  void expect_equal(int64_t found, int64_t expected, const std::string& what) {
    expect(found == expected, what + ": " + std::to_string(found) + ", not " + std::to_string(expected));
  }

  // Of this rank, in the step: of one operation in a group.
  int64_t bytes(CommOp op, const std::string& group) const {
    int64_t sum = 0;
    for (const Traffic& t : rank_->traffic[kStep]) sum += t.op == op && t.group == group ? t.bytes : 0;
    return sum;
  }
  int64_t calls(CommOp op, const std::string& group) const {
    int64_t sum = 0;
    for (const Traffic& t : rank_->traffic[kStep]) sum += t.op == op && t.group == group ? t.calls : 0;
    return sum;
  }
  int64_t largest(CommOp op, const std::string& group) const {
    int64_t most = 0;
    for (const Traffic& t : rank_->traffic[kStep]) {
      if (t.op == op && t.group == group) most = std::max(most, t.largest_bytes);
    }
    return most;
  }

  // What of a rank's buckets is stored in how many shares.
  int64_t shards() const { return rank_->mesh.degree(Axis::data_shard); }
  int64_t stage() const { return shards() > 1 ? p_.zero : 0; }

  void check_data() {
    if (p_.data == 1) return;
    const int64_t gradients = rank_->gradient_elements * kGradientBytes;
    const int64_t values = rank_->value_elements * width_;
    if (stage() == 0) {
      if (shards() > 1)
        expect_equal(bytes(CommOp::all_reduce, "data_shard"), gradients, "bytes of gradients all-reduced");
    } else {
      const int64_t times = stage() >= 2 ? microbatches_ : 1;
      expect_equal(bytes(CommOp::reduce_scatter, "data_shard"), times * gradients,
                   "bytes of gradients reduce-scattered");
      expect(largest(CommOp::all_reduce, "data_shard") <= kScalarBytes, "gradients all-reduced over the shards");
    }
    const int64_t gathered = bytes(CommOp::all_gather, "data_shard");
    if (stage() == 0) expect_equal(gathered, 0, "bytes of values gathered without ZeRO");
    if (stage() == 1 || stage() == 2) expect_equal(gathered, values, "bytes of values gathered after the update");
    if (stage() == 3) {
      const bool once = p_.keep_gathered == KeepGathered::step;
      expect(gathered >= values, "values were not gathered for ZeRO 3");
      expect(!once || gathered == values, "values gathered more than once a step: " + std::to_string(gathered) +
                                              " bytes of " + std::to_string(values));
      // With prefetch, a unit that is used again soon stays.
      expect(once || p_.prefetch > 0 || gathered >= microbatches_ * values, "values stayed for more than a unit");
    }
    if (rank_->mesh.degree(Axis::data_replica) > 1) {
      expect_equal(bytes(CommOp::all_reduce, "data_replica"), gradients / (stage() == 0 ? 1 : shards()),
                   "bytes of gradients all-reduced over the replicas");
    }
    expect(largest(CommOp::all_reduce, "data") <= kScalarBytes, "gradients all-reduced over all data ranks");
  }

  int64_t layers_here() const {
    const std::vector<int64_t> stages = resolve_stages(config_);
    int64_t layers = 0;
    for (const int chunk : model_place(config_, rank_->mesh, {}).chunks) layers += stages[static_cast<size_t>(chunk)];
    return layers;
  }

  int64_t hidden_bytes() const {
    return config_.batch.micro * config_.data.sequence_length * config_.model.hidden_size * width_;
  }

  void check_tensor() {
    if (p_.tensor == 1) {
      expect(bytes(CommOp::all_reduce, "tensor") == 0, "traffic in a tensor group of one");
      return;
    }
    const int64_t least = 2 * layers_here() * microbatches_ * hidden_bytes();  // of the forward pass alone
    if (p_.sequence) {
      expect(bytes(CommOp::reduce_scatter, "tensor") >= least, "hidden states were not reduce-scattered");
      // In chunks they come from each rank by itself, its own rows not at all.
      const int64_t gathered = bytes(CommOp::all_gather, "tensor") + 3 * bytes(CommOp::recv, "tensor");
      expect(gathered >= least, "hidden states were not gathered");
      expect(calls(CommOp::all_reduce, "tensor") <= rank_->num_buckets,
             "more than gradients was all-reduced under sequence parallelism");
    } else {
      expect(bytes(CommOp::all_reduce, "tensor") >= 2 * least, "hidden states were not all-reduced");
      expect(bytes(CommOp::reduce_scatter, "tensor") == 0, "hidden states were reduce-scattered");
    }
  }

  // Each chunk but the last sends its output, each but the first the gradient of its input, to another rank unless it lies
  // on the same.
  void check_pipeline() {
    const auto chunks = static_cast<int64_t>(resolve_stages(config_).size());
    int64_t expected = 0;
    for (int64_t chunk = 0; chunk + 1 < chunks; ++chunk) {
      if (stage_of(chunk, chunks) == stage_of(chunk + 1, chunks)) continue;
      const int64_t copies = p_.sequence ? 1 : p_.tensor;
      expected += 2 * microbatches_ * *p_.data * copies * hidden_bytes();
    }
    int64_t sent = 0;
    for (const RankRecord& rank : ranks_) {
      for (const Traffic& t : rank.traffic[kStep]) {
        if (t.op == CommOp::send && t.group.starts_with("stage")) sent += t.bytes;
      }
    }
    who_.clear();
    expect_equal(sent, expected, "bytes sent between stages");
  }

  int64_t stage_of(int64_t chunk, int64_t chunks) const {
    const bool back = p_.schedule == PipelineSchedule::zb_v && chunk >= p_.pipeline;
    return back ? chunks - 1 - chunk : chunk % p_.pipeline;
  }

  void check_memory() {
    const auto live = [&](MemoryTag tag) { return rank_->memory.live_bytes[static_cast<size_t>(tag)]; };
    // `tables`: small ones of the same tag, which are nothing beside a model of any size.
    const auto expect_near = [&](int64_t found, int64_t expected, int64_t tables, const char* what) {
      expect(found >= expected && found <= expected + expected / 100 + tables,
             std::string("bytes of ") + what + ": " + std::to_string(found) + ", not " + std::to_string(expected));
    };
    const auto share = [&](int64_t from_stage) { return stage() >= from_stage ? shards() : 1; };
    const int64_t state_bytes = width_ == 2 ? 12 : 8;  // two moments; a master beside bf16 weights
    expect_near(live(MemoryTag::optimizer), rank_->value_elements * state_bytes / share(1),
                128 + 64 * rank_->num_parameters, "optimizer states");
    expect_near(live(MemoryTag::gradients), rank_->gradient_elements * kGradientBytes / share(2), 0, "gradients");
    expect_near(live(MemoryTag::parameters), rank_->value_elements * width_ / share(3),
                config_.data.sequence_length * config_.model.head_dim * 4, "parameters");
  }

  const Config& config_;
  const ParallelConfig& p_;
  const std::vector<RankRecord>& ranks_;
  int64_t width_;  // bytes of a value
  int64_t microbatches_;
  const RankRecord* rank_ = nullptr;
  std::string who_;
  std::vector<std::string> findings_;
};

}  // namespace

std::vector<std::string> check_mechanism(const Config& config, const std::vector<RankRecord>& ranks) {
  return Check(config, ranks).run();
}

}  // namespace trireme::layouts
