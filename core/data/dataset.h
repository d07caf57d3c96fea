// Training samples: windows of T tokens cut from the concatenated documents of one or more sources.
//
// Window w of a source covers its tokens [w T, w T + T] of the split: T inputs, and the T labels that stand
// one token later (so neighbouring windows share one token, the label of one and the input of the other).
// Each source's windows come in a new random order every epoch; a blend takes sources in a fixed order that
// keeps their shares (blend.h). Everything is computed, nothing stored: sample i is a pure function of
// (seed, i, options), found in the same time for any i, so a run may stop and continue at any sample, with
// another batch size or number of ranks.
//
// Splits: the training and validation parts of a source share no token, hence no window.
//
// Thread safety: const after construction; any number of threads may read.
// Errors: ConfigError for options, DataError for files, for data shorter than one window, and for a token id
// outside the vocabulary, when its sample is read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/data/blend.h"
#include "core/formats/token_source.h"

namespace trireme {

struct DataSourceSpec {
  std::string path;  // anything that open_token_source takes
  double weight = 1.0;
};

struct DatasetOptions {
  std::vector<DataSourceSpec> train;
  // Sources of their own for validation; when there are any, valid_fraction is not looked at.
  std::vector<DataSourceSpec> valid;
  // The share of each source's documents, its last ones, kept for validation; 0 to below 1. See split_point.
  double valid_fraction = 0.0;
  int64_t sequence_length = 0;  // T
  int64_t vocab_size = 0;       // ids in the files must be below
  uint64_t seed = 0;
  // Attention stays inside a document and positions restart at its beginning.
  bool mask_documents = false;
};

enum class Split { train, valid };

// Where validation begins, in tokens: at the first of the last floor(fraction · documents) documents. When
// that is none (one long text, say), at token (1 - fraction) · tokens. 0 < fraction < 1.
int64_t split_point(const TokenSource& source, double fraction);

// Where a sample's numbers go; each span has T elements.
struct SampleSpans {
  std::span<int32_t> tokens;
  // The next token. It is kept where it belongs to the next document too, as Megatron does by default.
  std::span<int32_t> labels;
  // 0, 1, … T-1; with mask_documents it restarts at 0 with each document.
  std::span<int32_t> positions;
  // Index in the sequence of the first token of the document that the position lies in: what attention may
  // look back to. All 0 without mask_documents; a document begun in an earlier window begins at 0 here.
  std::span<int32_t> document_start;
};

class Dataset {
 public:
  Dataset(const DatasetOptions& options, Split split);

  struct Place {
    int source;
    int64_t epoch;        // of the source
    int64_t window;       // of the source's part
    int64_t first_token;  // in the source's file
  };
  // Where sample i comes from. REQUIRES: sample >= 0.
  Place locate(int64_t sample) const;
  // Reads sample i. REQUIRES: every span has T elements.
  void read(int64_t sample, const SampleSpans& out) const;

  int64_t sequence_length() const { return sequence_length_; }
  int num_sources() const { return static_cast<int>(parts_.size()); }
  int64_t num_windows(int source) const { return parts_[static_cast<size_t>(source)].num_windows; }
  int64_t num_windows() const;  // of all sources
  int64_t num_tokens() const;   // of all sources' parts
  const TokenSource& source(int source) const { return *parts_[static_cast<size_t>(source)].source; }
  const Blend& blend() const { return blend_; }

 private:
  // The tokens [begin, end) of a source.
  struct Part {
    std::unique_ptr<TokenSource> source;
    int64_t begin;
    int64_t end;
    int64_t num_windows;
    uint64_t order_key;
  };

  int64_t sequence_length_;
  int64_t vocab_size_;
  bool mask_documents_;
  Blend blend_;
  std::vector<Part> parts_;
};

}  // namespace trireme
