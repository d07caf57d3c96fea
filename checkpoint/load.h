// Loading a checkpoint into what one rank holds, in whatever layout either was made.
//
// Each rank reads the boxes of its own shards, stretch by stretch; nobody holds a whole tensor. Values that a rank keeps
// outside of its shard (stages 1 and 2) come from the other ranks afterwards, as after an update of the optimizer.
// Errors: DataError when the checkpoint is of another model, lacks something or is damaged; the state is then undefined.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "checkpoint/reader.h"
#include "parallel/zero/bucket.h"

namespace trireme {

enum class StateParts : uint8_t { weights, everything };

// `parameters` are those of the whole model; `buckets` those of this rank. With `everything`, buckets that have optimizer
// states get them.
void load_checkpoint(const CheckpointReader& reader, Stream& stream, const std::vector<Parameter>& parameters,
                     const std::vector<Bucket*>& buckets, StateParts parts);

// The elements of a box of a parameter, row-major, from wherever they are stored.
using ReadBox = std::function<void(const Parameter&, const Box&, std::span<float>)>;
// Fills one buffer of this rank's shard of a bucket: its boxes are read in ascending order, at most 16 MiB at a time.
void load_shard(Stream& stream, Bucket& bucket, Bucket::Buffer buffer, const ReadBox& read_box);

// DataError that says how, where the checkpoint's weights aren't those of this model.
void check_same_model(const CheckpointReader& reader, const std::vector<Parameter>& parameters);

}  // namespace trireme
