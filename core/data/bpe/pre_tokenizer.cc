#include "core/data/bpe/pre_tokenizer.h"

namespace trireme::bpe {

PreTokenizer::Stage::Stage(const SplitStage& from)
    : pattern(translate_pattern(from.pattern, from.where)),
      regex(pattern.pcre, from.where),
      keep_matches(from.keep_matches),
      keep_gaps(from.keep_gaps),
      prefix_space(from.prefix_space) {}

PreTokenizer::PreTokenizer(const TokenizerJson& json) : prefix_space_(json.prefix_space) {
  stages_.reserve(json.stages.size());
  for (const SplitStage& stage : json.stages) stages_.emplace_back(stage);
}

std::vector<Matcher> PreTokenizer::matchers() const {
  std::vector<Matcher> matchers;
  for (const Stage& stage : stages_) matchers.emplace_back(stage.regex);
  return matchers;
}

void PreTokenizer::split(std::string_view text, std::vector<Matcher>& matchers,
                         const std::function<void(std::string_view)>& word) const {
  if (!text.empty()) split_from(0, text, matchers, word);
}

void PreTokenizer::split_from(size_t index, std::string_view text, std::vector<Matcher>& matchers,
                              const std::function<void(std::string_view)>& word) const {
  const bool last = index == stages_.size();
  std::string spaced;
  if ((last ? prefix_space_ : stages_[index].prefix_space) && text[0] != ' ') {
    spaced = " ";
    spaced += text;
    text = spaced;
  }
  if (last) return word(text);
  const Stage& stage = stages_[index];
  const bool to_word = index + 1 == stages_.size() && !prefix_space_;
  const auto pass_on = [&](size_t begin, size_t end) {
    if (to_word) return word(text.substr(begin, end - begin));
    split_from(index + 1, text.substr(begin, end - begin), matchers, word);
  };
  size_t done = 0;
  for (Span match; done < text.size() && matchers[index].find(text, done, match); done = match.end) {
    if (stage.keep_gaps && match.begin > done) pass_on(done, match.begin);
    if (stage.keep_matches) pass_on(match.begin, match.end);
  }
  if (stage.keep_gaps && done < text.size()) pass_on(done, text.size());
}

}  // namespace trireme::bpe
