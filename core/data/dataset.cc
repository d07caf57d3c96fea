#include "core/data/dataset.h"

#include <algorithm>
#include <cmath>

#include "core/data/permutation.h"
#include "core/error.h"
#include "core/random/philox.h"

namespace trireme {

namespace {

const std::vector<DataSourceSpec>& specs_of(const DatasetOptions& options, Split split) {
  return split == Split::valid && !options.valid.empty() ? options.valid : options.train;
}

std::vector<double> weights_of(const std::vector<DataSourceSpec>& specs) {
  if (specs.empty()) throw ConfigError({.what = "there is no data source", .where = "data.train"});
  std::vector<double> weights;
  for (const DataSourceSpec& spec : specs) weights.push_back(spec.weight);
  return weights;
}

void check(const DatasetOptions& options, Split split) {
  const auto fail = [](const std::string& what, const std::string& expected, const std::string& found,
                       const std::string& where) {
    throw ConfigError({.what = what, .expected = expected, .found = found, .where = where});
  };
  if (options.sequence_length < 1 || options.sequence_length > int64_t{1} << 30) {
    fail("the sequence length is out of range", "1 to 2^30", std::to_string(options.sequence_length),
         "data.sequence_length");
  }
  if (options.vocab_size < 1 || options.vocab_size > kMaxVocabulary) {
    fail("the vocabulary size is out of range", "1 to 2^31", std::to_string(options.vocab_size), "model.vocab_size");
  }
  if (!options.valid.empty()) return;
  if (!(options.valid_fraction >= 0 && options.valid_fraction < 1)) {
    fail("the validation share is out of range", "0 to below 1", std::to_string(options.valid_fraction),
         "data.valid_fraction");
  }
  if (split == Split::valid && options.valid_fraction == 0) {
    fail("there is no validation data", "data.valid, or data.valid_fraction above 0", "neither", "data");
  }
}

[[noreturn]] void fail_short(const DatasetOptions& options, Split split, const TokenSource& source, int64_t tokens) {
  const bool cut = options.valid.empty() && options.valid_fraction > 0;
  const std::string name = split == Split::train ? "training" : "validation";
  std::string hint = tokens >= 2 ? "data.sequence_length of at most " + std::to_string(tokens - 1) : "more data";
  if (cut && split == Split::valid) hint += ", or a larger data.valid_fraction";
  if (cut && split == Split::train) hint += ", or a smaller data.valid_fraction";
  throw DataError({.what = "the sequence is longer than the " + name + " data",
                   .expected = "at least " + std::to_string(options.sequence_length + 1) +
                               " tokens for data.sequence_length " + std::to_string(options.sequence_length),
                   .found = std::to_string(tokens) + " tokens" +
                            (cut ? " in the " + name + " part of " + std::to_string(source.num_tokens()) : ""),
                   .where = source.path(),
                   .hint = hint});
}

}  // namespace

int64_t split_point(const TokenSource& source, double fraction) {
  TRIREME_CHECK(fraction > 0 && fraction < 1);
  const int64_t documents = source.num_documents();
  // The small number keeps 0.29 · 100 at 29.
  const auto held = static_cast<int64_t>(std::floor(fraction * static_cast<double>(documents) + 1e-9));
  if (held >= 1 && held < documents) return source.document_begin(documents - held);
  const auto tokens = static_cast<double>(source.num_tokens());
  const auto held_tokens = static_cast<int64_t>(std::llround(fraction * tokens));
  return source.num_tokens() - std::clamp<int64_t>(held_tokens, 0, source.num_tokens());
}

Dataset::Dataset(const DatasetOptions& options, Split split)
    : sequence_length_(options.sequence_length),
      vocab_size_(options.vocab_size),
      mask_documents_(options.mask_documents),
      blend_(weights_of(specs_of(options, split))) {
  check(options, split);
  const uint64_t key = random_key(options.seed, split == Split::train ? "data.train" : "data.valid");
  for (const DataSourceSpec& spec : specs_of(options, split)) {
    Part part{open_token_source(spec.path), 0, 0, 0, random_key(key, std::to_string(parts_.size()))};
    part.end = part.source->num_tokens();
    if (options.valid.empty() && options.valid_fraction > 0) {
      const int64_t point = split_point(*part.source, options.valid_fraction);
      (split == Split::train ? part.end : part.begin) = point;
    }
    // The last window's last label is one token beyond its inputs.
    part.num_windows = std::max<int64_t>(0, part.end - part.begin - 1) / sequence_length_;
    if (part.num_windows == 0) fail_short(options, split, *part.source, part.end - part.begin);
    parts_.push_back(std::move(part));
  }
}

int64_t Dataset::num_windows() const {
  int64_t sum = 0;
  for (const Part& part : parts_) sum += part.num_windows;
  return sum;
}

int64_t Dataset::num_tokens() const {
  int64_t sum = 0;
  for (const Part& part : parts_) sum += part.end - part.begin;
  return sum;
}

Dataset::Place Dataset::locate(int64_t sample) const {
  const Blend::Pick pick = blend_.at(sample);
  const Part& part = parts_[static_cast<size_t>(pick.source)];
  const int64_t epoch = pick.index / part.num_windows;
  const PhiloxBlock bits = philox4x32(part.order_key, static_cast<uint64_t>(epoch));
  const Permutation order(part.num_windows, (uint64_t{bits.x[0]} << 32) | bits.x[1]);
  const int64_t window = order(pick.index % part.num_windows);
  return {pick.source, epoch, window, part.begin + window * sequence_length_};
}

void Dataset::read(int64_t sample, const SampleSpans& out) const {
  const auto length = static_cast<size_t>(sequence_length_);
  TRIREME_CHECK(out.tokens.size() == length && out.labels.size() == length && out.positions.size() == length &&
                out.document_start.size() == length);
  const Place place = locate(sample);
  const TokenSource& source = *parts_[static_cast<size_t>(place.source)].source;
  source.read(place.first_token, out.tokens, vocab_size_);
  std::copy(out.tokens.begin() + 1, out.tokens.end(), out.labels.begin());
  source.read(place.first_token + sequence_length_, out.labels.last(1), vocab_size_);

  // The document that holds position t begins at sequence index `start`; the next one at `next_start`.
  int64_t document = mask_documents_ ? source.document_at(place.first_token) : 0;
  int64_t start = 0;
  int64_t next_start = mask_documents_ ? source.document_begin(document + 1) - place.first_token : sequence_length_;
  for (int64_t t = 0; t < sequence_length_; ++t) {
    while (t >= next_start) {  // more than once for empty documents
      start = next_start;
      ++document;
      next_start = source.document_begin(document + 1) - place.first_token;
    }
    out.document_start[static_cast<size_t>(t)] = static_cast<int32_t>(start);
    out.positions[static_cast<size_t>(t)] = static_cast<int32_t>(t - start);
  }
}

}  // namespace trireme
