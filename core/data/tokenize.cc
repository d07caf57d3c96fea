#include "core/data/tokenize.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/data/bounded_queue.h"
#include "core/data/text_reader.h"
#include "core/data/tokenizer.h"
#include "core/data/utf8.h"
#include "core/error.h"
#include "core/formats/megatron.h"

namespace trireme {

namespace {

constexpr size_t kBatchBytes = size_t{8} << 20;
constexpr size_t kBatchPieces = 16384;
constexpr size_t kBatchesAhead = 2;
constexpr int64_t kPiecesPerTask = 16;

struct Batch {
  std::vector<TextPiece> pieces;
  int64_t consumed_bytes = 0;
};

// A piece after encoding.
struct Encoded {
  std::vector<int32_t> ids;
  bool repaired = false;
};

using ByteCounts = std::array<int64_t, 256>;

// Reads batches on a thread of its own.
class ReadAhead {
 public:
  ReadAhead(const std::vector<std::string>& inputs, TextReader::Cut cut)
      : reader_(inputs, std::move(cut)), queue_(kBatchesAhead), thread_([this] { run(); }) {}
  ~ReadAhead() {
    queue_.cancel();
    thread_.join();
  }
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  std::optional<Batch> next() { return queue_.pop(); }
  int64_t total_bytes() const { return reader_.total_bytes(); }

 private:
  void run() {
    try {
      for (bool more = true; more;) {
        Batch batch;
        size_t bytes = 0;
        while (bytes < kBatchBytes && batch.pieces.size() < kBatchPieces) {
          TextPiece piece;
          more = reader_.next(piece);
          if (!more) break;
          bytes += piece.text.size();
          batch.pieces.push_back(std::move(piece));
        }
        batch.consumed_bytes = reader_.consumed_bytes();
        if (!batch.pieces.empty() && !queue_.push(std::move(batch))) break;
      }
      queue_.finish();
    } catch (...) {
      queue_.finish(std::current_exception());
    }
  }

  TextReader reader_;
  BoundedQueue<Batch> queue_;
  std::thread thread_;
};

// The text of one JSON line; sets `repaired` when its UTF-8 was broken.
std::string json_text(const std::string& line, const std::string& field, const std::string& where, bool& repaired) {
  using nlohmann::json;
  json value = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded() && !is_utf8(line)) {
    repaired = true;
    value = json::parse(repair_utf8(line), nullptr, /*allow_exceptions=*/false);
  }
  if (value.is_discarded()) {
    throw DataError({.what = "the line is not JSON",
                     .expected = "one object {\"" + field + "\": \"…\"} per line",
                     .found = "\"" + repair_utf8(line.substr(0, 60)) + (line.size() > 60 ? "…\"" : "\""),
                     .where = where});
  }
  const auto found = value.is_object() ? value.find(field) : value.end();
  if (found == value.end() || !found->is_string()) {
    std::string keys;
    if (value.is_object()) {
      for (const auto& [key, unused] : value.items()) keys += (keys.empty() ? "" : ", ") + key;
    }
    throw DataError({.what = "the line has no text",
                     .expected = "a string in field \"" + field + "\"",
                     .found = !value.is_object()     ? "no object"
                              : found == value.end() ? "fields: " + (keys.empty() ? "none" : keys)
                                                     : std::string(found->type_name()),
                     .where = where,
                     .hint = "--jsonl-field with the right name"});
  }
  return std::move(found->get_ref<std::string&>());
}

// Where the texts of a tokenizer may be cut; empty when anywhere.
TextReader::Cut cut_of(const Tokenizer& tokenizer) {
  if (!tokenizer.knows_cuts()) return {};
  return [&tokenizer](std::string_view text) { return tokenizer.last_cut(text); };
}

class Job {
 public:
  Job(const TokenizeOptions& options, ThreadPool& pool)
      : options_(options),
        pool_(pool),
        tokenizer_(make_tokenizer(options.tokenizer)),
        reader_(options.inputs, cut_of(*tokenizer_)),
        writer_(options.out_prefix, token_dtype_for_vocabulary(tokenizer_->vocab_size())),
        counts_(static_cast<size_t>(tokenizer_->vocab_size())) {
    if (!options.append_eod) return;
    eod_ = tokenizer_->end_of_document();
    if (!eod_) {
      throw ConfigError({.what = "--append-eod needs an end-of-document id",
                         .found = "the tokenizer '" + tokenizer_->name() + "', which has none",
                         .hint = "leaving --append-eod out, or a tokenizer that has one"});
    }
  }

  TokenizeReport run() {
    report_.vocab_size = tokenizer_->vocab_size();
    report_.dtype = token_dtype_for_vocabulary(report_.vocab_size);
    while (std::optional<Batch> batch = reader_.next()) {
      write(*batch, encode(*batch));
      report_progress(batch->consumed_bytes);
    }
    if (writer_.num_tokens() == 0) {
      throw DataError({.what = "the inputs hold no text", .where = options_.inputs.empty() ? "" : options_.inputs[0]});
    }
    writer_.finish();
    report_.num_tokens = writer_.num_tokens();
    report_.num_documents = writer_.num_documents();
    report_.unigram_entropy_nats = unigram_entropy_nats(counts_);
    report_.byte_unigram_entropy_nats = unigram_entropy_nats(byte_counts_);
    report_progress(reader_.total_bytes());
    return report_;
  }

 private:
  std::vector<Encoded> encode(Batch& batch) {
    const auto count = static_cast<int64_t>(batch.pieces.size());
    std::vector<Encoded> encoded(batch.pieces.size());
    // Errors are kept by piece, so that the first in the order of the inputs is the one reported.
    std::vector<std::exception_ptr> errors(batch.pieces.size());
    std::vector<ByteCounts> byte_counts(batch.pieces.size() / kPiecesPerTask + 1);  // by task
    pool_.for_ranges(count, kPiecesPerTask, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        try {
          encode_piece(batch.pieces[i], encoded[i], byte_counts[i / kPiecesPerTask]);
        } catch (...) {
          errors[i] = std::current_exception();
        }
      }
    });
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    for (const ByteCounts& counts : byte_counts) {
      for (size_t byte = 0; byte < counts.size(); ++byte) byte_counts_[byte] += counts[byte];
    }
    return encoded;
  }

  void encode_piece(TextPiece& piece, Encoded& out, ByteCounts& byte_counts) const {
    if (piece.line > 0) {
      const std::string where = options_.inputs[piece.input] + ":" + std::to_string(piece.line);
      piece.text = json_text(piece.text, options_.jsonl_field, where, out.repaired);
    }
    for (const char c : piece.text) ++byte_counts[static_cast<unsigned char>(c)];
    tokenizer_->encode(piece.text, out.ids);
  }

  void write(const Batch& batch, const std::vector<Encoded>& encoded) {
    for (size_t i = 0; i < encoded.size(); ++i) {
      const std::vector<int32_t>& ids = encoded[i].ids;
      writer_.append(ids);
      for (const int32_t id : ids) ++counts_[static_cast<size_t>(id)];
      document_tokens_ += static_cast<int64_t>(ids.size());
      report_.text_bytes += static_cast<int64_t>(batch.pieces[i].text.size());
      report_.num_repaired_lines += encoded[i].repaired ? 1 : 0;
      if (batch.pieces[i].ends_document) end_document();
    }
  }

  void end_document() {
    if (document_tokens_ == 0) {
      ++report_.num_empty_documents;
      return;
    }
    if (eod_) {
      writer_.append(std::span(&*eod_, 1));
      ++counts_[static_cast<size_t>(*eod_)];
    }
    writer_.end_document();
    document_tokens_ = 0;
  }

  void report_progress(int64_t consumed_bytes) const {
    if (!options_.progress) return;
    options_.progress({consumed_bytes, reader_.total_bytes(), writer_.num_documents(), writer_.num_tokens()});
  }

  const TokenizeOptions& options_;
  ThreadPool& pool_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<int32_t> eod_;
  ReadAhead reader_;
  MegatronWriter writer_;
  std::vector<int64_t> counts_;                                           // by id
  std::vector<int64_t> byte_counts_ = std::vector<int64_t>(size_t{256});  // by byte of the text
  int64_t document_tokens_ = 0;
  TokenizeReport report_;
};

}  // namespace

double unigram_entropy_nats(const std::vector<int64_t>& counts) {
  double total = 0;
  for (const int64_t count : counts) total += static_cast<double>(count);
  double entropy = 0;
  for (const int64_t count : counts) {
    if (count == 0) continue;
    const double p = static_cast<double>(count) / total;
    entropy -= p * std::log(p);
  }
  return entropy;
}

TokenizeReport tokenize_files(const TokenizeOptions& options, ThreadPool& pool) { return Job(options, pool).run(); }

}  // namespace trireme
