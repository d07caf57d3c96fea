// A Hugging Face directory's weights as a checkpoint: step 0, weights only, that any layout loads.
//
// Whatever the size of the model, a few pieces of kPieceBytes are all that lies in memory. bf16 and f32 keep their bits;
// f16 and f64 become f32.
// Errors: DataError that names the tensor and its file where one is missing, has another shape or none of ours, or a dtype
// that can't be read; MachineError where writing fails.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/hugging_face_boxes.h"
#include "checkpoint/manifest.h"
#include "core/formats/safetensors.h"
#include "parallel/name_map.h"

namespace trireme {

struct ImportOptions {
  std::string config_yaml;                    // of the checkpoint
  int64_t max_file_bytes = int64_t{4} << 30;  // a tensor larger than this has a file of its own
  int64_t piece_bytes = kPieceBytes;          // read and written at a time
};

// Writes weights-00000.safetensors, … and the manifest to `dir`, which exists. `parameters` are those of the whole model.
Manifest import_hugging_face(FileSystem& files, const SafetensorsReader& reader, const NameMap& map,
                             const std::vector<Parameter>& parameters, const ImportOptions& options,
                             const std::string& dir);

}  // namespace trireme
