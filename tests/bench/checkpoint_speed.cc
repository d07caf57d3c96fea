// Speed of checkpoints beside plain files on the same disk, in one run, by turns:
//   build/tests/checkpoint_speed [--dir DIR = .] [--ranks N = 2] [--rounds R = 5] [--steps K = 8] [--set key=value]…
// The model is that of llama-9.6m.yaml, for saving and loading made larger (12 layers of 1024). Ranks are threads. Plain: each
// rank writes a file of its share's size in pieces of 4 MiB and flushes it, or reads its own file of the checkpoint; before
// reading, files are put out of the system's cache. Then what an asynchronous save adds to the steps that run beside it, against a save that they wait for.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/saver.h"
#include "core/config/load.h"
#include "launcher/layout_run.h"
#include "launcher/rank_model.h"
#include "tests/thread_ranks.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPiece = int64_t{4} << 20;

struct Options {
  std::string dir = ".";
  int ranks = 2;
  int rounds = 5;
  int64_t steps = 8;
  std::vector<std::string> sets;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void require(bool condition, const char* what) {
  if (!condition)
    throw MachineError({.what = std::string("the benchmark can't ") + what, .found = std::strerror(errno)});
}

void plain_write(const std::string& path, int64_t bytes) {
  std::vector<char> piece(kPiece);
  for (size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<char>(i * 31 + i / 4096);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  require(fd >= 0, "create a file");
  for (int64_t at = 0; at < bytes; at += kPiece) {
    const auto n = static_cast<size_t>(std::min(kPiece, bytes - at));
    require(::pwrite(fd, piece.data(), n, at) == static_cast<ssize_t>(n), "write a file");
  }
  require(::fsync(fd) == 0, "flush a file");
  ::close(fd);
}

void plain_read(const std::string& path) {
  std::vector<char> piece(kPiece);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, "open a file");
  while (::read(fd, piece.data(), piece.size()) > 0) {
  }
  ::close(fd);
}

// Out of the system's cache. REQUIRES: it was flushed.
void evict(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, "open a file");
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

class Bench {
 public:
  Bench(RankContext& rank, const Config& config, const Options& options)
      : rank_(rank),
        config_(config),
        options_(options),
        model_(rank, config),
        saver_(model_.model.buckets(), rank.mesh(), rank.world(), rank.host_stream(), rank.copy_stream(),
               {.run_dir = options.dir, .host_buffer_bytes = config.checkpoint.host_buffer_bytes, .keep_last = 1}) {
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
    int64_t bytes = saver_.file_bytes();
    rank_.world()
        .all_reduce(Tensor::borrow(&bytes, {1}, DType::i64), ReduceOp::sum, rank_.host_stream())
        ->wait(rank_.host_stream());
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

  void added_step_time() {
    const LayoutInput input = make_layout_input(config_, options_.steps, 1);
    std::vector<double> added, saves;
    for (int round = 0; round <= options_.rounds; ++round) {
      const double before = seconds([&] { train(input, false); });
      const double with = seconds([&] { train(input, true); });
      const double after = seconds([&] { train(input, false); });
      const double save_alone = seconds([&] { save(); });
      if (round == 0) continue;  // memory is touched for the first time
      added.push_back(with - (before + after) / 2);
      saves.push_back(save_alone);
    }
    if (!rank_.is_main()) return;
    std::printf("a save beside %lld steps adds %.4f s [%.4f to %.4f]; one that they wait for takes %.4f s: %.1f %%\n",
                static_cast<long long>(options_.steps), median(added), *std::min_element(added.begin(), added.end()),
                *std::max_element(added.begin(), added.end()), median(saves), 100 * median(added) / median(saves));
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

  // As the trainer's loop, with a save that begins before the first step.
  void train(const LayoutInput& input, bool saves) {
    if (saves) saver_.begin({.step = ++saves_}, rank_.stream());
    for (int64_t s = 0; s < options_.steps; ++s) {
      model_.step.forward_backward(microbatches_of(input, s, config_.batch.micro, rank_.mesh()),
                                   [&] { return HostNews{.is_saving = saver_.writing()}; });
      saver_.wait_copied(rank_.stream());
      model_.step.update(1e-6, ++updates_);
      const StepNumbers numbers = model_.step.take_numbers();
      if (saver_.in_flight() && !numbers.is_saving) saver_.collect();
    }
    if (saves && saver_.in_flight() && rank_.is_main()) std::printf("(the save outlasts the steps: more --steps)\n");
    if (saves) saver_.settle();
  }

  RankContext& rank_;
  const Config& config_;
  const Options& options_;
  RankModel model_;
  CheckpointSaver saver_;
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
    } else if (name == "--steps") {
      options.steps = std::stoll(value);
    } else if (name == "--set") {
      options.sets.push_back(value);
    } else {
      throw ConfigError(
          {.what = "unknown option " + name, .hint = "the first lines of tests/bench/checkpoint_speed.cc"});
    }
  }
  const std::string root = options.dir + "/checkpoint_speed.tmp";
  options.dir = root + "/large";
  fs::create_directories(options.dir);
  const Config large =
      config_of(options, {"model.hidden_size=1024", "model.intermediate_size=2816", "model.num_attention_heads=16",
                          "model.num_key_value_heads=16", "model.num_hidden_layers=12"});
  run_rank_contexts(large, options.ranks, [&](RankContext& rank) { Bench(rank, large, options).speed(); });
  options.dir = root + "/small";
  const Config small = config_of(options, {"batch.global=" + std::to_string(2 * options.ranks), "batch.micro=2"});
  run_rank_contexts(small, options.ranks, [&](RankContext& rank) { Bench(rank, small, options).added_step_time(); });
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
