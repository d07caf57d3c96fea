// Records of choices: {"library": "130100", "device": "NVIDIA H200", "algorithms": {kind: hexadecimal or "none"}}.
#include <nlohmann/json.hpp>

#include "core/ops/cuda/gemm_library.h"
#include "core/ops/cuda/kernels.h"

namespace trireme::cuda {

namespace {

constexpr const char* kNone = "none";
constexpr size_t kNumWords = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t);
constexpr size_t kDigits = 16;  // of a word

std::string to_text(const GemmAlgorithm& algorithm) {
  if (!algorithm.has_value()) return kNone;
  std::string text;
  for (const uint64_t word : algorithm->data) {
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

// False when `text` is nothing that to_text writes.
bool from_text(const std::string& text, GemmAlgorithm& algorithm) {
  algorithm.reset();
  if (text == kNone) return true;
  if (text.size() != kNumWords * kDigits || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return false;
  }
  algorithm.emplace();
  for (size_t i = 0; i < kNumWords; ++i) {
    algorithm->data[i] = std::stoull(text.substr(i * kDigits, kDigits), nullptr, 16);
  }
  return true;
}

[[noreturn]] void refuse(const std::string& found) {
  throw DataError({.what = "the record of matrix product algorithms can't be read",
                   .found = found,
                   .hint = "delete it: algorithms are timed again, and the last bits of results may differ"});
}

}  // namespace

void export_gemm_algorithms(Stream& stream, std::string& json) {
  const GemmLibrary& library = as_cuda(stream).resource<GemmLibrary>();
  nlohmann::json algorithms = nlohmann::json::object();
  for (const auto& [kind, algorithm] : library.choices()) algorithms[kind] = to_text(algorithm);
  const nlohmann::json all = {
      {"library", library.version()}, {"device", library.device()}, {"algorithms", std::move(algorithms)}};
  json = all.dump(1) + "\n";
}

void import_gemm_algorithms(Stream& stream, const std::string& json, bool& imported) {
  imported = true;
  if (json.empty()) return;
  const nlohmann::json all = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!all.is_object() || !all.contains("library") || !all.contains("device") || !all.contains("algorithms") ||
      !all["algorithms"].is_object()) {
    refuse("no JSON object with library, device and algorithms");
  }
  GemmLibrary& library = as_cuda(stream).resource<GemmLibrary>();
  imported = all["library"] == library.version() && all["device"] == library.device();
  if (!imported) return;
  std::unordered_map<std::string, GemmAlgorithm> choices;
  for (const auto& [kind, text] : all["algorithms"].items()) {
    if (!text.is_string() || !from_text(text.get<std::string>(), choices[kind])) refuse(kind + ": " + text.dump());
  }
  library.import(choices);
}

}  // namespace trireme::cuda
