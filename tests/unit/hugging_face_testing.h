// What the tests of Hugging Face directories share: small models of every family, directories made of random bits, and
// checkpoints cut into boxes at random.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "core/config/config.h"
#include "core/formats/safetensors.h"

namespace trireme::testing {

struct HuggingFaceModel {
  std::string name;
  ModelConfig config;
};
// Odd sizes; tied and untied, grouped-query, head_dim, biases, every rotary scaling.
std::vector<HuggingFaceModel> hugging_face_models();
HuggingFaceModel hugging_face_model(const std::string& name);

enum class Filling { bits, numbers, zeros };  // any bit pattern; small normal numbers
enum class StoredAs { f32, bf16, mixed };

// config.json and weights, in `shards` files (with an index where there are several).
void write_hugging_face(const std::string& dir, const ModelConfig& config, StoredAs dtype, Filling filling,
                        int shards = 1);

// The same logical tensors as another checkpoint, each cut into random boxes that lie scattered over three files.
void scatter_checkpoint(const CheckpointReader& from, const std::string& dir, uint64_t seed);

// The same names, dtypes, shapes and bytes in two places.
void expect_same_tensors(const std::string& path, const std::string& expected);

}  // namespace trireme::testing
