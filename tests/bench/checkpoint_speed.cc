// Speed of checkpoints on one disk, in one run, by turns:
//   build/tests/checkpoint_speed [--dir DIR = .] [--ranks N = 2] [--only speed|added] [--rounds R = 5] [--pairs P = 12]
//                                [--disks MB/s,… = 200,500,0] [--set key=value]…
// The model is that of llama-9.6m.yaml made larger; ranks are threads.
// speed: beside plain files. Each rank writes a file of its share's size in pieces of 4 MiB and flushes it, or reads its own
// file of the checkpoint; before reading, files are put out of the system's cache.
// added: what a save adds to the steps beside it, against a save that they wait for, on disks of several speeds (0: as fast
// as it is). Pairs of as many steps as outlast a save, with one and without, each pair the other way round than the last.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <sstream>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/saver.h"
#include "core/config/load.h"
#include "launcher/layout_run.h"
#include "launcher/rank_model.h"
#include "parallel/comm/texts.h"
#include "tests/bench/checkpoint_speed_disk.h"
#include "tests/bench/checkpoint_speed_pairs.h"
#include "tests/thread_ranks.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string dir = ".";
  int ranks = 2;
  std::string only;
  int rounds = 5;
  int pairs = 12;
  std::vector<int> disks = {200, 500, 0};  // MB/s; slow ones first, which use all memory that there is for a save
  std::vector<std::string> sets;
};

class Bench {
 public:
  Bench(RankContext& rank, const Config& config, const Options& options, LimitedDisk& disk)
      : rank_(rank),
        config_(config),
        options_(options),
        model_(rank, config),
        disk_(disk),
        saver_(model_.model.buckets(), rank.mesh(), rank.world(), rank.host_stream(), rank.copy_stream(),
               {.run_dir = options.dir,
                .host_buffer_bytes = config.checkpoint.host_buffer_bytes,
                .keep_last = 1,
                .files = &disk}) {
    initialize_without_constants(rank.stream(), model_.model, 1);
    saver_.rehearse();
  }

  void speed() {
    const std::string plain = options_.dir + "/plain-" + std::to_string(rank_.rank());
    std::string saved;
    std::vector<double> writes, saves, reads, loads;
    for (int round = 0; round < options_.rounds; ++round) {
      fs::remove(plain);
      writes.push_back(seconds([&] { plain_write(plain, saver_.file_bytes()); }));
      if (rank_.is_main() && !saved.empty()) fs::remove_all(saved);
      saves.push_back(seconds([&] { save(); }));
      saved = saver_.path_of(saves_);
      const auto evict_all = [&] {
        wait_for_all();
        if (rank_.is_main()) {
          for (const auto& file : fs::directory_iterator(saved)) evict(file.path());
        }
      };
      evict_all();
      reads.push_back(seconds([&] { plain_read(saved + "/" + saver_.file_name()); }));
      evict_all();
      loads.push_back(seconds([&] {
        load_checkpoint(CheckpointReader(saved), rank_.stream(), model_.state.parameters(), model_.model.buckets(),
                        StateParts::everything);
      }));
    }
    fs::remove(plain);
    const int64_t bytes = all_bytes();
    if (!rank_.is_main()) return;
    const auto row = [&](const char* name, const std::vector<double>& times, double against) {
      std::printf("%-12s %7.3f s  %6.2f GB/s", name, median(times), 1e-9 * static_cast<double>(bytes) / median(times));
      if (against > 0) std::printf("   %.2f of plain (floor 0.80)", against / median(times));
      std::printf("\n");
    };
    std::printf("%.2f GB by %d ranks\n", 1e-9 * static_cast<double>(bytes), options_.ranks);
    row("plain write", writes, 0);
    row("save", saves, median(writes));
    row("plain read", reads, 0);
    row("load", loads, median(reads));
  }

  void added() {
    if (rank_.is_main()) {
      std::printf(
          "%.0f MB of state by %d ranks of one thread; medians and their intervals of 95 %%\n"
          "   disk  steps   one step   waited for     added to the steps beside it        of waited for\n",
          1e-6 * static_cast<double>(all_bytes()), options_.ranks);
    } else {
      all_bytes();
    }
    input_ = make_layout_input(config_, 1, 1);
    for (const int disk : options_.disks) added_on(disk);
    if (!rank_.is_main()) return;
    std::printf("host memory of rank 0's saves: %.1f MB of %.1f MB\n",
                1e-6 * static_cast<double>(rank_.copy_stream().host_allocator().stats().peak_live_bytes + kPiece),
                1e-6 * static_cast<double>(config_.checkpoint.host_buffer_bytes));
  }

 private:
  void wait_for_all() { rank_.world().barrier(rank_.host_stream())->wait(rank_.host_stream()); }

  // Of the slowest rank.
  double seconds(const std::function<void()>& work) {
    wait_for_all();
    const double begin = monotonic_seconds();
    work();
    wait_for_all();
    return monotonic_seconds() - begin;
  }

  void save() {
    saver_.begin({.step = ++saves_}, rank_.stream());
    const std::string problem = saver_.settle();
    if (!problem.empty()) throw MachineError({.what = problem});
  }

  // What some work took: of the slowest rank, of the process, of the training threads of all ranks.
  struct Cost {
    double seconds = 0;
    ProcessorTime process;
    double training = 0;
  };
  Cost cost(const std::function<void()>& work) {
    wait_for_all();
    const ProcessorTime process = ProcessorTime::of(RUSAGE_SELF);
    const ProcessorTime own = ProcessorTime::of(RUSAGE_THREAD);
    Cost result;
    result.seconds = seconds(work);
    auto training = static_cast<int64_t>(1e6 * (ProcessorTime::of(RUSAGE_THREAD) - own).sum());
    result.process = ProcessorTime::of(RUSAGE_SELF) - process;
    sum(training);
    result.training = 1e-6 * static_cast<double>(training);
    return result;
  }
  void sum(int64_t& value) {
    rank_.world()
        .all_reduce(Tensor::borrow(&value, {1}, DType::i64), ReduceOp::sum, rank_.host_stream())
        ->wait(rank_.host_stream());
  }
  int64_t all_bytes() {
    int64_t bytes = saver_.file_bytes();
    sum(bytes);
    return bytes;
  }

  // As the trainer's loop, with a save that begins before the first step; false where it outlasts the steps.
  bool train(int64_t steps, bool saves) {
    if (saves) saver_.begin({.step = ++saves_}, rank_.stream());
    for (int64_t s = 0; s < steps; ++s) {
      model_.step.forward_backward(microbatches_of(input_, 0, config_.batch.micro, rank_.mesh()),
                                   [&] { return HostNews{.is_saving = saver_.writing()}; });
      saver_.wait_copied(rank_.stream());
      model_.step.update(1e-6, ++updates_);
      const StepNumbers numbers = model_.step.take_numbers();
      if (saver_.in_flight() && !numbers.is_saving) saver_.collect();
    }
    return !saver_.in_flight();
  }

  // Of all ranks, the same on each.
  int64_t steps_that_outlast_a_save(double& step_seconds) {
    save();  // memory is touched for the first time
    step_seconds = seconds([&] { train(2, false); }) / 2;
    auto steps = static_cast<int64_t>(1.25 * seconds([&] { save(); }) / step_seconds + 2);
    const std::string said = broadcast_text(rank_.world(), rank_.host_stream(), std::to_string(steps), 0);
    return std::stoll(said);
  }

  void added_on(int disk) {
    disk_.set_rate(1e6 * disk);
    double step_seconds = 0;
    const int64_t steps = steps_that_outlast_a_save(step_seconds);
    std::vector<double> added, training, others, waited, user, system, writers;
    int num_late = 0;
    // As long on each disk.
    const auto num_pairs = static_cast<int>(std::max<int64_t>(options_.pairs, options_.pairs * 8 / steps));
    for (int pair = 0; pair < num_pairs; ++pair) {
      Cost with, without;
      for (const bool saves : {pair % 2 == 0, pair % 2 != 0}) {
        bool in_time = true;
        (saves ? with : without) = cost([&] { in_time = train(steps, saves); });
        if (saves) saver_.settle();
        num_late += in_time ? 0 : 1;
      }
      added.push_back(with.seconds - without.seconds);
      training.push_back(with.training - without.training);
      others.push_back((with.process - without.process).sum() - training.back());
      if (pair % 3 != 0) continue;
      if (rank_.is_main()) disk_.take_writers();
      const Cost alone = cost([&] { save(); });
      waited.push_back(alone.seconds);
      user.push_back(alone.process.user);
      system.push_back(alone.process.system);
      if (rank_.is_main()) writers.push_back(disk_.take_writers().sum());
    }
    if (!rank_.is_main()) return;
    const double save_seconds = median(waited);
    const auto row = [&](const char* what, const std::vector<double>& values, double share) {
      const MedianInterval m = median_interval(values);
      const double percent = 100 * share / save_seconds;
      std::printf("%-38s %8.1f ms [%7.1f … %7.1f]  %6.1f %% [%6.1f … %6.1f]\n", what, 1e3 * m.median * share,
                  1e3 * m.low * share, 1e3 * m.high * share, m.median * percent, m.low * percent, m.high * percent);
    };
    const std::string name = disk > 0 ? std::to_string(disk) + " MB/s" : "its own";
    std::printf("%9s %3lld   %5.0f ms   %8.1f ms (%.2f GB/s)%s\n", name.c_str(), static_cast<long long>(steps),
                1e3 * step_seconds, 1e3 * save_seconds,
                1e-9 * static_cast<double>(saver_.file_bytes()) * options_.ranks / save_seconds,
                num_late > 0 ? "   (a save outlasted the steps)" : "");
    const double per_rank = 1.0 / options_.ranks;
    row("  seconds added", added, 1);
    row("  processor time of a rank: saver", others, per_rank);
    row("    its training thread, added", training, per_rank);
    row("  of a save alone, a rank: user", user, per_rank);
    row("                           system", system, per_rank);
    row("    its writer", writers, per_rank);
    std::fflush(stdout);
  }

  RankContext& rank_;
  const Config& config_;
  const Options& options_;
  RankModel model_;
  LimitedDisk& disk_;
  CheckpointSaver saver_;
  LayoutInput input_;
  int64_t updates_ = 0;
  int64_t saves_ = 0;
};

Config config_of(const Options& options, std::vector<std::string> sets) {
  sets.insert(sets.begin(),
              {"run.threads=1", "parallel.data=" + std::to_string(options.ranks), "parallel.zero=1", "batch.micro=4"});
  sets.insert(sets.end(), options.sets.begin(), options.sets.end());
  return load_config(std::string(TRIREME_SOURCE_DIR) + "/tests/bench/llama-9.6m.yaml", sets);
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--dir") {
      options.dir = value;
    } else if (name == "--ranks") {
      options.ranks = std::stoi(value);
    } else if (name == "--rounds") {
      options.rounds = std::stoi(value);
    } else if (name == "--pairs") {
      options.pairs = std::stoi(value);
    } else if (name == "--only") {
      options.only = value;
    } else if (name == "--disks") {
      options.disks.clear();
      std::istringstream list(value);
      for (std::string rate; std::getline(list, rate, ',');) options.disks.push_back(std::stoi(rate));
    } else if (name == "--set") {
      options.sets.push_back(value);
    } else {
      throw ConfigError(
          {.what = "unknown option " + name, .hint = "the first lines of tests/bench/checkpoint_speed.cc"});
    }
  }
  const std::string root = options.dir + "/checkpoint_speed.tmp";
  const auto measure = [&](const std::string& name, const std::vector<std::string>& sets, auto&& work) {
    if (!options.only.empty() && options.only != name) return;
    options.dir = root + "/" + name;
    fs::create_directories(options.dir);
    LimitedDisk disk;
    const Config config = config_of(options, sets);
    run_rank_contexts(config, options.ranks, [&](RankContext& rank) {
      Bench bench(rank, config, options, disk);
      work(bench);
    });
  };
  measure("speed",
          {"model.hidden_size=1024", "model.intermediate_size=2816", "model.num_attention_heads=16",
           "model.num_key_value_heads=16", "model.num_hidden_layers=12"},
          [](Bench& bench) { bench.speed(); });
  measure("added",
          {"model.hidden_size=768", "model.intermediate_size=2048", "model.num_attention_heads=12",
           "model.num_key_value_heads=4", "data.sequence_length=128", "batch.global=" + std::to_string(options.ranks),
           "batch.micro=1"},
          [](Bench& bench) { bench.added(); });
  fs::remove_all(root);
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  try {
    return trireme::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
