#include "checkpoint/saver.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <new>
#include <set>
#include <string_view>
#include <system_error>

#include "checkpoint/directory.h"
#include "core/error.h"
#include "core/formats/mapped_file.h"
#include "parallel/comm/texts.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

// What a rank tells rank 0 at the end of its part: its share of the manifest, or why there is none.
constexpr char kWritten = 'w';
constexpr char kFailed = 'f';

constexpr int64_t kPage = 4096;

std::string temporary_of(const std::string& path) { return path + ".tmp"; }

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g GB", static_cast<double>(bytes) * 1e-9);
  return text;
}

// What goes wrong in a save, the run goes on: refused files, memory and threads. Anything else is a bug and passes.
std::string problem_of(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return error.what();
  } catch (const std::system_error& error) {
    return error.what();
  } catch (const std::bad_alloc&) {
    return "this machine is out of memory";
  }
}

// Brings the names of a directory and of those above it to the disk: whoever made them may not have.
void sync_names_of(FileSystem& files, const fs::path& directory) {
  for (fs::path at = fs::absolute(directory); at.has_relative_path(); at = at.parent_path()) {
    files.sync_directory(at.parent_path().string());
  }
}

// Creates, flushes and removes a small file.
void try_file(FileSystem& files, const std::string& path) {
  const std::string text = "A checkpoint could be written here.\n";
  const auto file = files.create(path);
  file->write_at(0, std::as_bytes(std::span<const char>(text)));
  file->sync();
  file->close();
}

}  // namespace

CheckpointSaver::CheckpointSaver(const std::vector<Bucket*>& buckets, const Mesh& mesh, Communicator& world,
                                 Stream& host_stream, Stream& copies, Options options)
    : plan_(buckets, mesh),
      world_(world),
      host_stream_(host_stream),
      copies_(copies),
      options_(std::move(options)),
      slots_(copies, std::min(kHashChunkBytes, (plan_.file_bytes() + kPage - 1) / kPage * kPage),
             options_.host_buffer_bytes - kHashChunkBytes) {}  // the file keeps its last chunk (hashed_file.h)

CheckpointSaver::~CheckpointSaver() = default;

std::string CheckpointSaver::path_of(int64_t step) const { return checkpoint_path(options_.run_dir, step); }

void CheckpointSaver::rehearse() {
  FileSystem& files = *options_.files;
  const fs::path directory = checkpoints_directory(options_.run_dir);
  const std::string sign = (directory / "rehearsal.tmp").string();
  int64_t bytes = plan_.file_bytes();
  world_.all_reduce(Tensor::borrow(&bytes, {1}, DType::i64), ReduceOp::sum, host_stream_)->wait(host_stream_);
  if (world_.rank() == 0) {
    files.make_directories(directory.string());
    sync_names_of(files, directory);
    remove_leftovers(files, options_.run_dir);
    const int64_t available = files.free_bytes(directory.string());
    if (available < bytes) {
      throw MachineError({.what = "a checkpoint of this run doesn't fit on the disk",
                          .expected = gigabytes(bytes) + " of free space",
                          .found = gigabytes(available),
                          .where = directory.string(),
                          .hint = "freeing space there, or another run.dir"});
    }
    try_file(files, sign);
  }
  world_.barrier(host_stream_)->wait(host_stream_);
  if (!file_exists(sign)) {
    throw MachineError({.what = "a rank doesn't see what rank 0 writes in the directory of checkpoints",
                        .where = directory.string() + ", rank " + std::to_string(world_.rank()),
                        .hint = "a run.dir on a file system that all machines share"});
  }
  const std::string own = (directory / (plan_.file_name() + ".rehearsal.tmp")).string();
  try_file(files, own);
  files.remove(own);
  world_.barrier(host_stream_)->wait(host_stream_);
  if (world_.rank() == 0) files.remove(sign);
}

void CheckpointSaver::begin(const CheckpointState& state, Stream& compute) {
  if (in_flight()) collect();
  report(take_commit());
  state_ = state;
  const std::string directory = temporary_of(path_of(state.step));
  // Rank 0 has removed an older attempt's files before anybody writes. Where it can't, writing fails, and says why.
  if (world_.rank() == 0) {
    try {
      options_.files->remove(directory);
    } catch (const Error&) {
    }
  }
  world_.barrier(host_stream_)->wait(host_stream_);
  job_ = std::make_unique<SaveJob>(plan_, *options_.files, directory, compute, copies_, slots_);
}

void CheckpointSaver::wait_copied(Stream& compute) {
  if (job_ != nullptr) job_->wait_copied(compute);
}

void CheckpointSaver::collect() {
  std::string share;
  const std::string problem = problem_of([&] { share = kWritten + pack_share(job_->wait(), plan_.tensors()); });
  if (!problem.empty()) share = kFailed + problem + " (rank " + std::to_string(world_.rank()) + ")";
  job_.reset();
  std::vector<std::string> shares = gather_texts(world_, host_stream_, share);
  if (world_.rank() != 0) return;
  commit_ = std::async(std::launch::async, [this, shares = std::move(shares)] { return commit(shares); });
}

void CheckpointSaver::put_in_place(const std::vector<std::string>& shares) const {
  const std::string path = path_of(state_.step);
  const std::string temporary = temporary_of(path);
  FileSystem& files = *options_.files;
  Manifest manifest;
  manifest.step = state_.step;
  manifest.consumed_samples = state_.consumed_samples;
  manifest.seed = state_.seed;
  manifest.layout = state_.layout;
  manifest.config_yaml = state_.config_yaml;
  for (const std::string& share : shares) add_share(manifest, share.substr(1));
  check_cover(manifest);
  std::set<std::string_view> written;
  for (const StoredTensor& tensor : manifest.tensors) written.insert(tensor.name);
  for (const std::string& name : options_.parameters) {
    if (!written.contains(name)) {
      throw BugError({.what = "a checkpoint was not written whole: no rank holds " + name});
    }
  }
  write_manifest(files, temporary, manifest);  // brings the directory's names to the disk, too
  files.rename(temporary, path);
  try {
    files.sync_directory(checkpoints_directory(options_.run_dir));
  } catch (const Error&) {
    // What may be gone after a crash of the machine is none.
    files.rename(path, temporary);
    throw;
  }
}

CheckpointSaver::Outcome CheckpointSaver::commit(const std::vector<std::string>& shares) const {
  FileSystem& files = *options_.files;
  Outcome outcome;
  const auto attempt = [&](const std::function<void()>& work) {
    const std::string problem = problem_of(work);
    if (outcome.problem.empty()) outcome.problem = problem;
  };
  for (const std::string& share : shares) {
    if (share.front() == kFailed && outcome.problem.empty()) outcome.problem = share.substr(1);
  }
  if (outcome.problem.empty()) attempt([&] { put_in_place(shares); });
  outcome.saved = outcome.problem.empty();
  if (outcome.saved) {
    // Of earlier saves and deletions that failed; nobody writes now.
    attempt([&] { remove_leftovers(files, options_.run_dir); });
    attempt([&] { prune_checkpoints(files, options_.run_dir, options_.keep_last, options_.keep_every); });
  } else {
    attempt([&] { files.remove(temporary_of(path_of(state_.step))); });  // else the next rehearsal does
  }
  return outcome;
}

// On rank 0: waits for the commit; says why the checkpoint was not saved.
std::string CheckpointSaver::take_commit() {
  if (!commit_.valid()) return {};
  const Outcome outcome = commit_.get();
  if (!outcome.saved) {
    return "the checkpoint of step " + std::to_string(state_.step) + " was not saved: " + outcome.problem;
  }
  if (!outcome.problem.empty()) report("an old checkpoint could not be deleted: " + outcome.problem);
  return {};
}

void CheckpointSaver::report(const std::string& problem) const {
  if (!problem.empty() && options_.warn) options_.warn(problem);
}

void CheckpointSaver::report_finished() {
  if (commit_.valid() && commit_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) report(take_commit());
}

std::string CheckpointSaver::settle() {
  if (in_flight()) collect();
  return broadcast_text(world_, host_stream_, take_commit(), /*root=*/0);
}

}  // namespace trireme
