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

void write_tensors(Stream& stream, const std::string& path, const std::vector<ParameterRef>& parameters,
                   Bucket::Buffer buffer) {
  std::vector<TensorSpec> specs;
  for (const ParameterRef& ref : parameters) {
    const auto dims = ref.parameter->shape.dims();
    specs.push_back({ref.parameter->name, FileDType::f32, {dims.begin(), dims.end()}});
  }
  SafetensorsWriter writer(path, specs);
  std::vector<float> host;
  for (const ParameterRef& ref : parameters) {
    host.resize(static_cast<size_t>(ref.parameter->shape.numel()));
    ref.bucket->read(stream, *ref.parameter, buffer, host.data());
    writer.write_values<float>(ref.parameter->name, host);
  }
  writer.finish();
}

void read_tensors(Stream& stream, const std::string& path, const std::vector<ParameterRef>& parameters,
                  Bucket::Buffer buffer) {
  const SafetensorsReader reader(path);
  std::vector<float> host;
  for (const ParameterRef& ref : parameters) {
    const Parameter& parameter = *ref.parameter;
    const TensorSpec& spec = reader.spec(parameter.name);
    if (Shape(std::span<const int64_t>(spec.shape)) == parameter.shape) {
      host.resize(static_cast<size_t>(parameter.shape.numel()));
      reader.read(parameter.name, 0, std::span<float>(host));
      ref.bucket->write(stream, parameter, buffer, host.data());
      continue;
    }
    throw DataError({.what = "the checkpoint is of another model: " + parameter.name + " has another shape",
                     .expected = parameter.shape.str(),
                     .found = Shape(std::span<const int64_t>(spec.shape)).str(),
                     .where = path,
                     .hint = "the model section that the checkpoint's config.yaml holds"});
  }
  if (reader.names().size() != parameters.size()) {
    throw DataError({.what = "the checkpoint is of another model",
                     .expected = std::to_string(parameters.size()) + " tensors",
                     .found = std::to_string(reader.names().size()),
                     .where = path,
                     .hint = "the model section that the checkpoint's config.yaml holds"});
  }
}

}  // namespace

std::string save_checkpoint(Stream& stream, const std::string& run_dir, const CheckpointState& state,
                            const std::vector<ParameterRef>& parameters) {
  const fs::path final_path = checkpoints_dir(run_dir) / step_name(state.step);
  const fs::path temporary = final_path.string() + ".tmp";
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
      write_tensors(stream, path, parameters, file.buffer);
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

CheckpointState load_checkpoint(Stream& stream, const std::string& path, const std::vector<ParameterRef>& parameters) {
  const Manifest manifest = read_manifest(path);
  const bool with_states = !parameters.empty() && parameters.front().bucket->first_moment().defined();
  for (const StateFile& file : kStateFiles) {
    if (file.buffer != Bucket::Buffer::master && !with_states) continue;
    check_file(path, manifest, file.file);
    read_tensors(stream, (fs::path(path) / file.file).string(), parameters, file.buffer);
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
