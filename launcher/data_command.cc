// `trireme data tokenize`, `trireme data inspect` and `trireme generate`: commands of one process.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/data/tokenizer.h"
#include "core/data/utf8.h"
#include "core/device/allocator.h"
#include "core/metrics/console.h"
#include "core/metrics/format.h"
#include "launcher/commands.h"
#include "launcher/rank_env.h"

namespace trireme {

namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// [#####-----] 50% of 4.2 MiB, 31.0 MiB/s, 1.2M tokens
std::string progress_bar(const TokenizeProgress& p, double seconds) {
  constexpr int kWidth = 30;
  const double share =
      p.total_input_bytes > 0 ? static_cast<double>(p.input_bytes) / static_cast<double>(p.total_input_bytes) : 1.0;
  const int filled = std::clamp(static_cast<int>(share * kWidth), 0, kWidth);
  const auto rate = static_cast<int64_t>(static_cast<double>(p.input_bytes) / std::max(seconds, 1e-6));
  return "[" + std::string(static_cast<size_t>(filled), '#') + std::string(static_cast<size_t>(kWidth - filled), '-') +
         "] " + fixed(100 * share, 0) + "% of " + human_bytes(p.total_input_bytes) + ", " + human_bytes(rate) + "/s, " +
         human_count(static_cast<double>(p.num_tokens)) + " tokens";
}

// The first `limit` bytes, control characters escaped, on one line.
std::string one_line(const std::string& text, size_t limit) {
  std::string out;
  for (const char c : text.substr(0, limit)) {
    if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

int tokenize_command(TokenizeOptions options) {
  const int terminal = find_terminal(find_rank_env(), STDERR_FILENO);
  Console console(STDERR_FILENO, terminal >= 0, terminal);
  const double begin = seconds_now();
  options.progress = [&](const TokenizeProgress& p) { console.live(progress_bar(p, seconds_now() - begin)); };
  ThreadPool pool(default_threads(/*local_size=*/1));
  const TokenizeReport report = tokenize_files(options, pool);
  console.end_live();
  std::printf("%s.bin, %s.idx: %lld tokens (%s), %lld documents, vocabulary %lld\n", options.out_prefix.c_str(),
              options.out_prefix.c_str(), static_cast<long long>(report.num_tokens),
              token_dtype_name(report.dtype).c_str(), static_cast<long long>(report.num_documents),
              static_cast<long long>(report.vocab_size));
  std::printf("unigram entropy: %.4f nats per token, %.4f nats per byte of text\n", report.unigram_entropy_nats,
              report.byte_unigram_entropy_nats);
  if (report.num_empty_documents > 0) {
    std::fprintf(stderr, "%lld empty documents were left out\n", static_cast<long long>(report.num_empty_documents));
  }
  if (report.num_repaired_lines > 0) {
    std::fprintf(stderr, "%lld lines had broken UTF-8, now U+FFFD\n",
                 static_cast<long long>(report.num_repaired_lines));
  }
  return 0;
}

int inspect_command(const std::string& path, const std::string& tokenizer_spec) {
  const std::unique_ptr<TokenSource> source = open_token_source(path);
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(tokenizer_spec);
  const int64_t documents = source->num_documents();
  std::vector<int32_t> ids(static_cast<size_t>(std::min<int64_t>(source->num_tokens(), 64)));
  source->read(0, ids);
  std::printf("file       %s\nformat     %s, %s\ntokens     %lld\ndocuments  %lld\n", source->path().c_str(),
              source->format().c_str(), token_dtype_name(source->dtype()).c_str(),
              static_cast<long long>(source->num_tokens()), static_cast<long long>(documents));
  if (documents > 0) {
    std::printf("mean       %.1f tokens per document\n",
                static_cast<double>(source->num_tokens()) / static_cast<double>(documents));
  }
  std::string first;
  for (size_t i = 0; i < std::min<size_t>(ids.size(), 16); ++i) first += " " + std::to_string(ids[i]);
  std::printf("first ids %s\n", first.c_str());
  const bool fits = std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id < tokenizer->vocab_size(); });
  if (fits) {
    std::printf("first text %s\n", one_line(repair_utf8(tokenizer->decode(ids)), 200).c_str());
  } else {
    std::printf("first text (ids beyond tokenizer '%s': name another with --tokenizer)\n", tokenizer_spec.c_str());
  }
  return 0;
}

int generate_command(const GenerateOptions& options) {
  ThreadPool pool(default_threads(/*local_size=*/1));
  CpuAllocator allocator;
  CpuStream stream(allocator, pool);
  generate(stream, options, [](const std::string& piece) {
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
  });
  std::fputs("\n", stdout);
  return 0;
}

}  // namespace trireme
