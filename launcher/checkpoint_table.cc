#include "launcher/checkpoint_table.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/config/load.h"
#include "core/error.h"
#include "core/metrics/format.h"
#include "launcher/layout_text.h"

namespace trireme {

namespace {

using Row = std::vector<std::string>;

// Characters on the screen, of UTF-8.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

// Columns side by side, two spaces between them; those whose heading begins with '>' to the right.
std::string aligned(Row heading, std::vector<Row> rows) {
  std::vector<bool> right;
  for (std::string& name : heading) {
    right.push_back(name.starts_with('>'));
    if (right.back()) name.erase(0, 1);
  }
  rows.insert(rows.begin(), heading);
  std::vector<size_t> widths(heading.size(), 0);
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string out;
  for (const Row& row : rows) {
    std::string line = "  ";
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string gap(widths[i] - width_of(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (right[i] ? gap + row[i] : row[i] + gap);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

int64_t total_bytes(const Manifest& manifest) {
  int64_t bytes = 0;
  for (const StoredFile& file : manifest.files) bytes += file.bytes;
  return bytes;
}

int64_t total_elements(const Manifest& manifest) {
  int64_t n = 0;
  for (const StoredTensor& tensor : manifest.tensors) n += tensor.shape.numel();
  return n;
}

// "llama, 4 layers, …"; what is wrong where the configuration can't be read by this program.
std::string model_summary(const Manifest& manifest) {
  try {
    return model_text(parse_config(manifest.config_yaml, "manifest.json").model);
  } catch (const Error& error) {
    return std::string("unknown: ") + error.what();
  }
}

}  // namespace

std::string checkpoint_table(const std::string& path, const Manifest& manifest) {
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += name + std::string(12 - name.size(), ' ') + value + "\n";
  };
  line("checkpoint", path);
  line("step", std::to_string(manifest.step));
  line("samples", std::to_string(manifest.consumed_samples));
  line("seed", std::to_string(manifest.seed));
  line("layout", manifest.layout);
  line("model", model_summary(manifest));
  out += "\n";
  std::vector<Row> rows;
  for (const StoredFile& file : manifest.files) {
    rows.push_back({file.name, human_bytes(file.bytes), std::to_string(file.chunk_hashes.size())});
  }
  out += aligned({"file", ">size", ">chunks"}, rows) + "\n";
  rows.clear();
  for (const StoredTensor& tensor : manifest.tensors) {
    rows.push_back({tensor.name, file_dtype_name(tensor.dtype), tensor.shape.str(), human_bytes(tensor.bytes()),
                    std::to_string(tensor.boxes.size())});
  }
  out += aligned({"tensor", "dtype", "shape", ">size", ">boxes"}, rows) + "\n";
  line("total", count_text(std::ssize(manifest.tensors), "tensor") + ", " +
                    human_count(static_cast<double>(total_elements(manifest))) + " elements, " +
                    count_text(std::ssize(manifest.files), "file") + ", " + human_bytes(total_bytes(manifest)));
  return out;
}

std::string checkpoint_json(const std::string& path, const Manifest& manifest) {
  using Json = nlohmann::ordered_json;
  Json root = {{"path", path},          {"step", manifest.step},     {"consumed_samples", manifest.consumed_samples},
               {"seed", manifest.seed}, {"layout", manifest.layout}, {"model", model_summary(manifest)}};
  root["files"] = Json::array();
  for (const StoredFile& file : manifest.files) {
    root["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"chunks", file.chunk_hashes.size()}});
  }
  root["tensors"] = Json::array();
  for (const StoredTensor& tensor : manifest.tensors) {
    const auto dims = tensor.shape.dims();
    root["tensors"].push_back({{"name", tensor.name},
                               {"dtype", file_dtype_name(tensor.dtype)},
                               {"shape", std::vector<int64_t>(dims.begin(), dims.end())},
                               {"bytes", tensor.bytes()},
                               {"boxes", tensor.boxes.size()}});
  }
  root["num_elements"] = total_elements(manifest);
  root["bytes"] = total_bytes(manifest);
  return root.dump(1) + "\n";
}

std::string difference_table(const CheckpointDifference& difference, size_t rows) {
  std::string out;
  for (const std::string& line : difference.state) out += line + "\n";
  const size_t shown = rows == 0 ? difference.tensors.size() : std::min(rows, difference.tensors.size());
  std::vector<Row> table;
  for (size_t i = 0; i < shown; ++i) {
    const TensorDifference& d = difference.tensors[i];
    if (!d.comparable) {
      table.push_back({d.name, d.note});
      continue;
    }
    const std::string where = d.num_different == 0 ? ""
                                                   : std::to_string(d.at) + ": " + scientific(d.a) + " and " +
                                                         scientific(d.b) + (d.note.empty() ? "" : "; ");
    table.push_back(
        {d.name, std::to_string(d.num_different), scientific(d.largest), scientific(d.relative), where + d.note});
  }
  // What can't be compared has its reason where the numbers would be.
  const Row heading = {"tensor", "elements", "largest", "relative", "at"};
  if (!table.empty()) out += aligned(heading, table);
  if (shown < difference.tensors.size()) {
    out += "  … and " + std::to_string(difference.tensors.size() - shown) + " more (--rows 0 lists all)\n";
  }
  out += count_text(difference.num_compared, "tensor") + " compared, " + std::to_string(difference.tensors.size()) +
         " differ\n";
  return out;
}

}  // namespace trireme
