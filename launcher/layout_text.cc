#include "launcher/layout_text.h"

#include <cstdio>
#include <vector>

#include "parallel/resolve.h"

namespace trireme {

namespace {

// "0, 30 × 1, 0"
std::string layers_text(const std::vector<int64_t>& stages) {
  std::string out;
  for (size_t i = 0; i < stages.size();) {
    size_t end = i;
    while (end < stages.size() && stages[end] == stages[i]) ++end;
    out += (out.empty() ? "" : ", ") + (end - i > 1 ? std::to_string(end - i) + " × " : "") + std::to_string(stages[i]);
    i = end;
  }
  return out;
}

}  // namespace

std::string table_row(const std::string& name, const std::string& value) {
  char head[32];
  std::snprintf(head, sizeof head, "  %-12s ", name.c_str());
  return head + value + "\n";
}

std::string pipeline_text(const Config& config) {
  const ParallelConfig& p = config.parallel;
  if (p.pipeline == 1 && resolve_virtual_stages(p) == 1) return "none";
  const std::string chunks = std::to_string(resolve_virtual_stages(p));
  return to_string(p.schedule) + ", " + chunks + (chunks == "1" ? " chunk" : " chunks") + " per rank, layers " +
         layers_text(resolve_stages(config));
}

std::string zero_text(const Mesh& mesh, const ParallelConfig& p) {
  std::string out = "stage " + std::to_string(p.zero);
  if (p.zero == 0) return out;
  out += ", " + std::to_string(mesh.degree(Axis::data_shard)) + " ranks share a copy";
  if (mesh.group_size(kDispatchAxes) > 1) {
    out += " (of an expert " + std::to_string(mesh.degree(Axis::expert_shard)) + ")";
  }
  if (p.zero == 3) out += ", keep_gathered " + to_string(p.keep_gathered) + ", prefetch " + std::to_string(p.prefetch);
  return out;
}

std::string model_text(const ModelConfig& m) {
  return to_string(m.family) + ", " + std::to_string(m.num_layers) + " layers, hidden " +
         std::to_string(m.hidden_size) + ", " + std::to_string(m.num_heads) + " heads (" +
         std::to_string(m.num_kv_heads) + " kv), feed-forward " + std::to_string(m.ffn_size) + ", vocabulary " +
         std::to_string(m.vocab_size) + (m.tie_embeddings ? ", tied" : "");
}

std::string layout_text(const Mesh& mesh, const ParallelConfig& parallel) {
  return mesh.str() + (parallel.sequence && parallel.tensor > 1 ? ", sequence parallelism" : "");
}

}  // namespace trireme
