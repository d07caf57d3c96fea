#include "launcher/diagnose.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/ops/elementwise.h"

namespace trireme {

namespace {

bool is_finite(Stream& stream, const Tensor& x) {
  Tensor wide = x;
  if (x.dtype() == DType::bf16) {
    wide = Tensor::empty(stream, x.shape(), DType::f32, MemoryTag::workspace);
    ops::cast(stream, x, wide);
  }
  // A sum of squares in fp64 is finite exactly when every fp32 element is.
  Tensor sum = Tensor::empty(stream, {1}, DType::f64, MemoryTag::workspace);
  ops::sum_squares(stream, wide, sum, /*accumulate=*/false);
  double value = 0;
  ops::copy_to_host(stream, sum, &value);
  stream.synchronize();
  return std::isfinite(value);
}

// What this rank found first; of all ranks the lowest `order` speaks.
struct Finding {
  int64_t order = std::numeric_limits<int64_t>::max();
  std::string what;

  void add(int64_t at, const std::string& text) {
    if (at < order) *this = {at, text};
  }
};

// Places in the order of looking: weights, the chunks and units of each microbatch's forward pass, gradients.
constexpr int64_t kPass = int64_t{1} << 40;
constexpr int64_t kChunk = int64_t{1} << 16;

void look_at(RankContext& rank, RankModel& model, Bucket::Buffer buffer, int64_t at, const std::string& word,
             Finding& finding) {
  for (const ParameterRef& ref : model.model.parameters()) {
    if (!Bucket::belongs(*ref.parameter, buffer)) continue;
    const Tensor shard = ref.bucket->shard_of(*ref.parameter, buffer);
    if (shard.numel() > 0 && !is_finite(rank.stream(), shard)) finding.add(at, word + " " + ref.parameter->name);
  }
}

void watch_forward(RankContext& rank, RankModel& model, const HostMicrobatch& microbatch, int64_t number,
                   Finding& finding) {
  const std::vector<Unit*> units = model.model.units();
  const std::string where = ", microbatch " + std::to_string(number);
  const double loss = model.step.watch_forward(microbatch, [&](size_t unit, const Tensor& output) {
    if (!output.defined() || output.numel() == 0 || is_finite(rank.stream(), output)) return;
    int64_t place = 0;
    for (const ModelChunk& chunk : model.model.chunks()) {
      if (unit >= chunk.first_unit) place = chunk.chunk * kChunk + static_cast<int64_t>(unit - chunk.first_unit);
    }
    finding.add(kPass * (number + 1) + place, "the output of " + units[unit]->name() + where);
  });
  if (!std::isfinite(loss)) finding.add(kPass * (number + 2) - 1, "the loss of microbatch " + std::to_string(number));
}

// The words of the rank with the lowest order; among equals the lowest rank's.
std::string first_of_all(RankContext& rank, Finding finding) {
  if (rank.world_size() == 1) return finding.what;
  Stream& stream = rank.host_stream();
  int64_t lowest = finding.order;
  rank.world().all_reduce(Tensor::borrow(&lowest, {1}, DType::i64), ReduceOp::min, stream)->wait(stream);
  int64_t speaker = finding.order == lowest ? rank.rank() : rank.world_size();
  rank.world().all_reduce(Tensor::borrow(&speaker, {1}, DType::i64), ReduceOp::min, stream)->wait(stream);
  std::string text = finding.what.empty() ? "" : finding.what + ", rank " + std::to_string(rank.rank());
  text.resize(512, ' ');
  rank.world()
      .broadcast(Tensor::borrow(text.data(), {512}, DType::u8), static_cast<int>(speaker), stream)
      ->wait(stream);
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

}  // namespace

std::string first_not_finite(RankContext& rank, RankModel& model, const std::vector<HostMicrobatch>& microbatches) {
  Finding finding;
  look_at(rank, model, Bucket::Buffer::master, 0, "weight", finding);
  const int64_t count = std::ssize(microbatches);
  for (int64_t j = 0; j < count; ++j) watch_forward(rank, model, microbatches[static_cast<size_t>(j)], j, finding);
  look_at(rank, model, Bucket::Buffer::gradient, kPass * (count + 2), "gradient", finding);
  return first_of_all(rank, finding);
}

}  // namespace trireme
