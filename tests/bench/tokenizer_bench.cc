// MB/s of encoding on one core, with a tokenizer and a text of choice:
//
//   tokenizer_bench TOKENIZER TEXT      TOKENIZER as for --tokenizer of `trireme data tokenize`
//
// The text is encoded as one document, and line by line as JSON Lines would have it. Time is the thread's processor time,
// so that other programs hardly count. tests/bench/tokenizer_reference.py does the same with Python's `tokenizers`.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "core/data/tokenizer.h"
#include "core/error.h"

namespace trireme {
namespace {

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The best of several runs, the first of which fills the cache of words.
double best_seconds(const std::function<void()>& run) {
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const double begin = processor_seconds();
    run();
    const double seconds = processor_seconds() - begin;
    best = i == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

int run(const std::string& spec, const std::string& path) {
  const double begin = processor_seconds();
  const auto tokenizer = make_tokenizer(spec);
  const double load = processor_seconds() - begin;
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) throw DataError({.what = "no text", .where = path});
  const auto megabytes = static_cast<double>(text.size()) / 1e6;
  std::vector<int32_t> ids;
  const double first = [&] {
    const double start = processor_seconds();
    tokenizer->encode(text, ids);
    return processor_seconds() - start;
  }();
  const double whole = best_seconds([&] {
    ids.clear();
    tokenizer->encode(text, ids);
  });
  const double lines = best_seconds([&] {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      ids.clear();
      tokenizer->encode(std::string_view(text).substr(at, end - at), ids);
      at = end;
    }
  });
  ids.clear();
  tokenizer->encode(text, ids);
  const double decoding = best_seconds([&] { tokenizer->decode(ids); });
  std::printf("%s: loaded in %.2f s; %.1f MB, %zu ids, %.2f bytes each\n", spec.c_str(), load, megabytes, ids.size(),
              megabytes * 1e6 / static_cast<double>(ids.size()));
  std::printf("encode  %.1f MB/s at first, %.1f MB/s; line by line %.1f MB/s\ndecode  %.1f MB/s\n", megabytes / first,
              megabytes / whole, megabytes / lines, megabytes / decoding);
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER TEXT\n");
    return 2;
  }
  try {
    return trireme::run(argv[1], argv[2]);
  } catch (const trireme::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
