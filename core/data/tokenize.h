// `trireme data tokenize`: text, JSON Lines and gzip of both into Megatron's P.bin and P.idx.
//
// One thread reads ahead, the pool encodes, the caller writes in the order of the inputs, so that the files
// don't depend on the number of threads. Memory is bounded by a few batches of about 8 MiB of text (and the
// longest JSON line). Texts beyond 1 MiB are encoded in pieces, cut where the tokenizer says or after a line end
// (Tokenizer::knows_cuts).
// Errors: DataError that names file and line, MachineError for a full disk; the old P.bin and P.idx stay.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/device/thread_pool.h"
#include "core/formats/token_source.h"

namespace trireme {

struct TokenizeProgress {
  int64_t input_bytes = 0;  // read so far, as they lie on disk
  int64_t total_input_bytes = 0;
  int64_t num_documents = 0;
  int64_t num_tokens = 0;
};

struct TokenizeOptions {
  std::vector<std::string> inputs;
  std::string tokenizer = "bytes";
  std::string out_prefix;
  std::string jsonl_field = "text";
  bool append_eod = false;  // the tokenizer's end-of-document id after each document
  // Called on the calling thread after every batch and at the end; may be empty.
  std::function<void(const TokenizeProgress&)> progress = {};
};

struct TokenizeReport {
  int64_t num_tokens = 0;
  int64_t num_documents = 0;
  int64_t num_empty_documents = 0;  // left out
  int64_t num_repaired_lines = 0;   // JSON lines with broken UTF-8, replaced by U+FFFD
  int64_t text_bytes = 0;
  int64_t vocab_size = 0;
  TokenDType dtype = TokenDType::u16;
  // -Σ p ln p over the ids written: the loss of a model that knows only how frequent each token is. For the
  // byte tokenizer this is the entropy of the bytes.
  double unigram_entropy_nats = 0;       // per token
  double byte_unigram_entropy_nats = 0;  // per byte of the text, whatever the tokenizer
};

TokenizeReport tokenize_files(const TokenizeOptions& options, ThreadPool& pool);

// Entropy in nats of the distribution that the counts describe; 0 when all are 0.
double unigram_entropy_nats(const std::vector<int64_t>& counts);

}  // namespace trireme
