// A tokenizer.json of the Hugging Face `tokenizers` package, as far as it is byte-level BPE: read, checked, and laid
// out in plain values.
//
// Whatever in the file would change ids and isn't built is refused by name, and so is a field that isn't known.
// The post-processor is ignored: it adds special ids around a text, which Tokenizer::encode never does.
// Errors: ConfigError for what isn't built, DataError for a file that is broken; both name file and field.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace trireme::bpe {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // not where a letter, digit or mark stands beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // is looked for after normalization, and is itself normalized
  bool special = false;
};

// A Split: pieces of the text that a pattern matches, and those between the matches.
struct SplitStage {
  std::string pattern;  // as in the file, or ByteLevel's own
  bool keep_matches = true;
  bool keep_gaps = true;
  bool prefix_space = false;  // put a space before a piece without one before it is split
  std::string where;
};

struct TokenizerJson {
  std::string path;
  std::vector<std::pair<std::string, int32_t>> vocab;       // in the byte alphabet
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool ignore_merges = false;                               // a word of the vocabulary is taken as it stands
  bool nfc = false;
  std::vector<SplitStage> stages;
  bool prefix_space = false;  // ByteLevel's, where it splits nothing itself
  std::vector<AddedToken> added_tokens;
};

TokenizerJson read_tokenizer_json(const std::string& path);

}  // namespace trireme::bpe
