// The weights of a checkpoint as safetensors that `transformers` loads: Hugging Face's names, shapes and orientation, in
// one file or in shards with an index.
//
// Whatever the size of the model, a few pieces of kPieceBytes are all that lies in memory.
// Errors: DataError where the checkpoint is damaged or of another model, MachineError where writing fails.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/hugging_face_boxes.h"
#include "checkpoint/reader.h"
#include "core/formats/file_system.h"
#include "parallel/name_map.h"

namespace trireme {

struct ExportOptions {
  std::optional<FileDType> dtype = {};      // f32 or bf16, rounded to nearest; none: as the checkpoint has it
  int64_t max_shard_bytes = 5'000'000'000;  // a tensor larger than this has a file of its own
  int64_t piece_bytes = kPieceBytes;        // read and written at a time
};

struct ExportedWeights {
  std::vector<std::string> files;  // in the directory, the index not among them
  int64_t num_tensors = 0;
  int64_t bytes = 0;                 // of the tensors
  FileDType dtype = FileDType::f32;  // of most bytes
};

// Writes model.safetensors, or model-00001-of-0000N.safetensors and model.safetensors.index.json, to `dir`, which exists.
ExportedWeights export_hugging_face(FileSystem& files, const CheckpointReader& reader, const NameMap& map,
                                    const ExportOptions& options, const std::string& dir);

}  // namespace trireme
