#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "checkpoint/manifest.h"
#include "core/error.h"
#include "core/formats/safetensors.h"

namespace fs = std::filesystem;

namespace trireme {

namespace {

// The three files of a checkpoint and the buffers that they hold.
struct StateFile {
  const char* file;
  Bucket::Buffer buffer;
};
constexpr StateFile kStateFiles[] = {
    {"weights.safetensors", Bucket::Buffer::master},
    {"first_moments.safetensors", Bucket::Buffer::first_moment},
    {"second_moments.safetensors", Bucket::Buffer::second_moment},
};

fs::path checkpoints_dir(const std::string& run_dir) { return fs::path(run_dir) / "checkpoints"; }

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

// Collective; the main rank writes.
void write_tensors(const std::string& path, const ModelState& model, Bucket::Buffer buffer) {
  std::unique_ptr<SafetensorsWriter> writer;
  if (model.is_main()) {
    std::vector<TensorSpec> specs;
    for (const Parameter& parameter : model.parameters()) {
      const auto dims = parameter.shape.dims();
      specs.push_back({parameter.name, FileDType::f32, {dims.begin(), dims.end()}});
    }
    writer = std::make_unique<SafetensorsWriter>(path, specs);
  }
  std::vector<float> host;
  for (const Parameter& parameter : model.parameters()) {
    model.read(parameter, buffer, host);
    if (writer) writer->write_values<float>(parameter.name, host);
  }
  if (writer) writer->finish();
}

void read_tensors(const std::string& path, const ModelState& model, Bucket::Buffer buffer) {
  const SafetensorsReader reader(path);
  std::vector<float> host;
  for (const Parameter& parameter : model.parameters()) {
    const TensorSpec& spec = reader.spec(parameter.name);
    if (Shape(std::span<const int64_t>(spec.shape)) == parameter.shape) {
      host.resize(static_cast<size_t>(parameter.shape.numel()));
      reader.read(parameter.name, 0, std::span<float>(host));
      model.write(parameter, buffer, host.data());
      continue;
    }
    throw DataError({.what = "the checkpoint is of another model: " + parameter.name + " has another shape",
                     .expected = parameter.shape.str(),
                     .found = Shape(std::span<const int64_t>(spec.shape)).str(),
                     .where = path,
                     .hint = "the model section that the checkpoint's config.yaml holds"});
  }
  if (reader.names().size() != model.parameters().size()) {
    throw DataError({.what = "the checkpoint is of another model",
                     .expected = std::to_string(model.parameters().size()) + " tensors",
                     .found = std::to_string(reader.names().size()),
                     .where = path,
                     .hint = "the model section that the checkpoint's config.yaml holds"});
  }
}

}  // namespace

std::string save_checkpoint(const std::string& run_dir, const CheckpointState& state, const ModelState& model) {
  const fs::path final_path = checkpoints_dir(run_dir) / step_name(state.step);
  const fs::path temporary = final_path.string() + ".tmp";
  if (!model.is_main()) {
    for (const StateFile& file : kStateFiles) write_tensors("", model, file.buffer);
    return final_path.string();
  }
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  try {
    std::error_code error;
    fs::create_directories(temporary, error);
    if (error) {
      throw MachineError({.what = "cannot create a checkpoint directory: " + error.message(),
                          .where = temporary.string(),
                          .hint = "another run.dir, or more space and permission there"});
    }
    Manifest manifest;
    manifest.step = state.step;
    manifest.consumed_samples = state.consumed_samples;
    manifest.config_yaml = state.config_yaml;
    for (const StateFile& file : kStateFiles) {
      const std::string path = (temporary / file.file).string();
      write_tensors(path, model, file.buffer);
      manifest.files.push_back(hash_file(path));
    }
    write_manifest(temporary.string(), manifest);
    fs::remove_all(final_path, ignored);
    fs::rename(temporary, final_path, error);
    if (error) {
      throw MachineError(
          {.what = "cannot put the checkpoint in its place: " + error.message(), .where = final_path.string()});
    }
    flush_directory(final_path.parent_path().string());
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  return final_path.string();
}

CheckpointState read_checkpoint_state(const std::string& path) {
  const Manifest manifest = read_manifest(path);
  return {manifest.step, manifest.consumed_samples, manifest.config_yaml};
}

CheckpointState load_checkpoint(const std::string& path, const ModelState& model) {
  const Manifest manifest = read_manifest(path);
  for (const StateFile& file : kStateFiles) {
    if (file.buffer != Bucket::Buffer::master && !model.with_optimizer_states()) continue;
    check_file(path, manifest, file.file);
    read_tensors((fs::path(path) / file.file).string(), model, file.buffer);
  }
  return {manifest.step, manifest.consumed_samples, manifest.config_yaml};
}

namespace {

// Complete checkpoints, oldest first.
std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const std::string& run_dir) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_dir(run_dir), error)) {
    if (!is_checkpoint(entry.path().string())) continue;
    try {
      found.emplace_back(read_manifest(entry.path().string()).step, entry.path());
    } catch (const Error&) {
      // Not a valid checkpoint: it does not exist for `latest`.
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::optional<std::string> latest_checkpoint(const std::string& run_dir) {
  const auto found = list_checkpoints(run_dir);
  if (found.empty()) return std::nullopt;
  return found.back().second.string();
}

void prune_checkpoints(const std::string& run_dir, int64_t keep_last, int64_t keep_every) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_dir(run_dir), error)) {
    if (entry.path().extension() == ".tmp") fs::remove_all(entry.path(), error);
  }
  if (keep_last == 0) return;
  const auto found = list_checkpoints(run_dir);
  for (size_t i = 0; i + static_cast<size_t>(keep_last) < found.size(); ++i) {
    if (keep_every > 0 && found[i].first % keep_every == 0) continue;
    fs::remove_all(found[i].second, error);
  }
}

bool is_checkpoint(const std::string& path) {
  // A directory that is still being written, or that an interrupted save left, doesn't count.
  return fs::path(path).extension() != ".tmp" && fs::exists(fs::path(path) / "manifest.json");
}

}  // namespace trireme
