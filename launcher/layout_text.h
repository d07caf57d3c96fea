// What people read of a layout: a line each, for the plan of a run and for `verify`.
#pragma once

#include <string>

#include "core/config/config.h"
#include "parallel/mesh.h"

namespace trireme {

std::string model_text(const ModelConfig& model);                           // "llama, 4 layers, hidden 192, …"
std::string layout_text(const Mesh& mesh, const ParallelConfig& parallel);  // "data 2 × tensor 4 = 8 ranks, …"
std::string pipeline_text(const Config& config);                            // "1f1b, 1 chunk per rank, layers 4 × 2"
std::string zero_text(const Mesh& mesh, const ParallelConfig& parallel);    // "stage 1, 8 ranks share a copy"
std::string table_row(const std::string& name, const std::string& value);   // of all these tables, with its line end

}  // namespace trireme
