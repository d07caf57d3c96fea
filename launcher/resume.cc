#include "launcher/resume.h"

#include <cstdlib>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/directory.h"
#include "checkpoint/hugging_face.h"
#include "checkpoint/load.h"
#include "core/error.h"
#include "core/formats/atomic_file.h"
#include "parallel/comm/texts.h"

namespace trireme {

namespace {

// A checkpoint that the user named: itself, or the newest of a run directory; empty where there is none. Rank 0 looks: that
// run may be going on, and all ranks must load the same. Collective.
std::string named_checkpoint(RankContext& rank, const std::string& path) {
  std::string found;
  if (rank.is_main()) found = is_checkpoint(path) ? path : latest_checkpoint(path).value_or("");
  return broadcast_text(rank.world(), rank.host_stream(), found, 0);
}

// Loads it on this rank. Says what is damaged, if anything; another model is an error on all ranks alike.
std::string try_load(RankContext& rank, RankModel& model, const std::string& path, StateParts parts, RunStart& start) {
  const std::vector<Parameter>& parameters = model.state.parameters();
  std::optional<CheckpointReader> reader;
  try {
    reader.emplace(path);
  } catch (const DataError& error) {
    return error.what();
  }
  check_same_model(*reader, parameters);
  try {
    load_checkpoint(*reader, rank.stream(), parameters, model.model.buckets(), parts);
  } catch (const DataError& error) {
    return error.what();
  }
  start.step = reader->manifest().step;
  start.consumed_samples = reader->manifest().consumed_samples;
  start.seed = reader->manifest().seed;
  return {};
}

// The first rank's problem that has one, on all ranks.
std::string first_problem(RankContext& rank, const std::string& own) {
  Stream& stream = rank.host_stream();
  int64_t speaker = own.empty() ? rank.world_size() : rank.rank();
  rank.world().all_reduce(Tensor::borrow(&speaker, {1}, DType::i64), ReduceOp::min, stream)->wait(stream);
  if (speaker == rank.world_size()) return {};
  return broadcast_text(rank.world(), stream, own, static_cast<int>(speaker));
}

// The newest checkpoint, of those later than `later_than`, that every rank can load what it needs of; its path, or nothing
// where there is none at all.
std::string load_newest(RankContext& rank, const Config& config, int64_t later_than, RankModel& model, Logger& logger,
                        RunStart& start) {
  std::vector<std::string> found;  // on rank 0
  std::vector<std::string> skipped;
  if (rank.is_main()) found = list_checkpoints(config.run.dir, &skipped);
  if (later_than >= 0)
    std::erase_if(found, [&](const std::string& path) { return read_manifest(path).step <= later_than; });
  for (const std::string& problem : skipped) logger.warn("a checkpoint is passed over: " + problem);
  // One without a manifest may be of any step.
  std::string last_problem = skipped.empty() || later_than >= 0 ? "" : skipped.back();
  for (size_t i = 0;; ++i) {
    const std::string path =
        broadcast_text(rank.world(), rank.host_stream(), i < found.size() ? found[i] : std::string(), 0);
    if (path.empty()) break;
    const std::string problem = first_problem(rank, try_load(rank, model, path, StateParts::everything, start));
    if (problem.empty()) return path;
    if (rank.is_main()) logger.warn("a checkpoint is passed over: " + problem);
    last_problem = problem;
  }
  last_problem = broadcast_text(rank.world(), rank.host_stream(), last_problem, 0);
  if (last_problem.empty()) return {};
  throw DataError({.what = "no checkpoint of the run can be used (checkpoint.resume: never starts anew and sets these "
                           "aside); of the last one: " +
                           last_problem});
}

// Where the launch that this process belongs to wrote down from which step it began. A start by hand has none.
class LaunchRecord {
 public:
  explicit LaunchRecord(const Config& config) : path_(config.run.dir + "/launch.txt") {
    if (const char* name = std::getenv(kLaunchVariable)) launch_ = name;
  }

  // The step, where this launch was there before.
  std::optional<int64_t> began_from() const {
    std::ifstream file(path_);
    std::string launch;
    int64_t step = 0;
    if (launch_.empty() || !(file >> launch >> step) || launch != launch_) return std::nullopt;
    return step;
  }
  void write(FileSystem& files, int64_t step) const {
    if (launch_.empty() || began_from()) return;
    const std::string text = launch_ + " " + std::to_string(step) + "\n";
    AtomicFile file(path_, files);
    file.append(std::as_bytes(std::span<const char>(text)));
    file.commit();
  }

 private:
  std::string path_;
  std::string launch_;
};

// For `never` and paths, which name the beginning of a launch: what has been saved since then, if this is a restart. Its
// path, or nothing.
std::string load_saved_since(RankContext& rank, const Config& config, RankModel& model, Logger& logger,
                             RunStart& start) {
  std::string began;
  if (rank.is_main()) {
    if (const auto step = LaunchRecord(config).began_from()) began = std::to_string(*step);
  }
  began = broadcast_text(rank.world(), rank.host_stream(), began, 0);
  return began.empty() ? "" : load_newest(rank, config, std::stoll(began), model, logger, start);
}

void load_named(RankContext& rank, RankModel& model, const std::string& path, StateParts parts, RunStart& start) {
  const std::string problem = first_problem(rank, try_load(rank, model, path, parts, start));
  if (!problem.empty()) throw DataError({.what = problem});
}

void start_from_weights(RankContext& rank, const Config& config, RankModel& model, Logger& logger) {
  const std::string& path = *config.checkpoint.init_from;
  const std::string checkpoint = named_checkpoint(rank, path);
  if (!checkpoint.empty()) {
    RunStart of_the_weights;
    load_named(rank, model, checkpoint, StateParts::weights, of_the_weights);
  } else {
    load_hugging_face(SafetensorsReader(path), hugging_face_names(config.model), rank.stream(), model.model.buckets());
  }
  logger.info("starting from the weights in " + path);
}

}  // namespace

RunStart load_run_start(RankContext& rank, const Config& config, RankModel& model, Logger& logger, FileSystem& files) {
  const std::string& resume = config.checkpoint.resume;
  RunStart start;
  std::string from;
  if (resume == "auto") {
    from = load_newest(rank, config, /*later_than=*/-1, model, logger, start);
  } else {
    from = load_saved_since(rank, config, model, logger, start);
  }
  if (from.empty() && resume != "auto" && resume != "never") {
    from = named_checkpoint(rank, resume);
    if (from.empty()) {
      throw DataError({.what = "there is no checkpoint",
                       .expected = "a checkpoint's directory, or a run directory with one",
                       .where = resume,
                       .hint = "checkpoint.resume: auto, never, or another path"});
    }
    load_named(rank, model, from, StateParts::everything, start);
  }
  if (!from.empty()) {
    logger.info("continuing from " + from + " (step " + std::to_string(start.step) + ")");
    if (rank.is_main() && start.seed != config.run.seed) {
      logger.warn("run.seed is " + std::to_string(config.run.seed) + ", but " + from + " is of a run with " +
                  std::to_string(start.seed) + ": the data goes on in the order of another run");
    }
  } else if (config.checkpoint.init_from) {
    start_from_weights(rank, config, model, logger);
  } else {
    model.model.initialize(rank.stream(), static_cast<uint64_t>(config.run.seed));
  }
  model.step.weights_changed();
  if (rank.is_main()) {
    for (const std::string& path : set_aside_later_checkpoints(files, config.run.dir, start.step, from)) {
      logger.warn("this run goes on from step " + std::to_string(start.step) +
                  "; a later checkpoint is set aside: " + path);
    }
    if (resume != "auto") LaunchRecord(config).write(files, start.step);
  }
  return start;
}

}  // namespace trireme
