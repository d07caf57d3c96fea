#include "core/config/reader.h"

#include <algorithm>
#include <cmath>

#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

namespace {

using Kind = ConfigNode::Kind;

std::string join(const std::vector<std::string>& words, const std::string& separator) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : separator) + word;
  return out;
}

// Lists every key path of the whole configuration, for "did you mean" across sections.
class PathCollector final : public FieldVisitor {
 public:
  void field(const FieldSpec& spec, const FieldRef&) override { paths.emplace_back(prefix_ + spec.name); }
  void section(const FieldSpec& spec, const SectionRef& section) override {
    paths.emplace_back(prefix_ + spec.name);
    if (section.shape != SectionRef::Shape::one) return;
    const std::string outer = prefix_;
    prefix_ += spec.name + ".";
    section.describe(*this, 0);
    prefix_ = outer;
  }

  std::vector<std::string> paths;

 private:
  std::string prefix_;
};

class KeyCollector final : public FieldVisitor {
 public:
  void field(const FieldSpec& spec, const FieldRef&) override { keys.push_back({spec.name, spec.alias}); }
  void section(const FieldSpec& spec, const SectionRef&) override { keys.push_back({spec.name, spec.alias}); }

  std::vector<ModelKey> keys;
};

// What a number may be, for messages: "an integer from 1 to 8", "a number above 0".
std::string number_text(const FieldSpec& spec, const std::string& kind) {
  const auto text = [&](double bound) {
    return spec.unit == Unit::bytes ? exact_bytes(static_cast<int64_t>(bound)) : exact_real(bound);
  };
  const bool lower = std::isfinite(spec.min);
  const bool upper = std::isfinite(spec.max);
  std::string out = kind;
  if (lower && upper) {
    out += (spec.above_min ? " above " : " from ") + text(spec.min) + (spec.above_min ? " up to " : " to ") +
           text(spec.max);
  } else if (lower) {
    out += spec.above_min ? " above " + text(spec.min) : ", at least " + text(spec.min);
  } else if (upper) {
    out += ", at most " + text(spec.max);
  }
  return out;
}

// The families whose model section has this key.
std::string families_with(const std::string& key) {
  std::vector<std::string> families;
  const Names names = names_of(ModelFamily{});
  for (size_t i = 0; i < names.size(); ++i) {
    const std::vector<ModelKey> keys = model_keys(static_cast<ModelFamily>(i));
    const bool has = std::any_of(keys.begin(), keys.end(),
                                 [&](const ModelKey& known) { return known.name == key || known.alias == key; });
    if (has) families.emplace_back(names[i]);
  }
  return join(families, ", ");
}

class Reader final : public FieldVisitor {
 public:
  Reader(const ConfigNode& node, std::string prefix) : node_(&node), prefix_(std::move(prefix)) {}

  void field(const FieldSpec& spec, const FieldRef& value) override {
    const ConfigNode* node = take(spec);
    if (!node) return;
    const std::string path = path_of(*node);
    std::visit([&](auto target) { read(spec, path, *node, target); }, value);
  }

  void section(const FieldSpec& spec, const SectionRef& section) override {
    static const ConfigNode kAbsent{.kind = Kind::map};
    const ConfigNode* node = take(spec);
    const std::string path = prefix_ + (node ? node->shown_key() : spec.name);
    switch (section.shape) {
      case SectionRef::Shape::one:
        // An absent or empty section is visited too: its required keys are missing.
        enter(node && node->kind != Kind::null ? *node : kAbsent, path, section, 0);
        return;
      case SectionRef::Shape::optional:
        if (!node) return;
        section.resize(node->kind == Kind::null ? 0 : 1);
        if (node->kind != Kind::null) enter(*node, path, section, 0);
        return;
      case SectionRef::Shape::list:
        if (node) read_list(spec, path, *node, section);
        return;
    }
  }

  // After all fields of the section were visited.
  void finish() const {
    for (const ConfigNode& child : node_->children) {
      if (std::find(taken_.begin(), taken_.end(), &child) == taken_.end()) fail_unknown(child);
    }
  }

  void enter(const ConfigNode& node, const std::string& path, const SectionRef& section, size_t index) {
    if (node.kind != Kind::map) fail_type(path, node, "a map of keys");
    Reader inner(node, path.empty() ? "" : path + ".");
    section.describe(inner, index);
    inner.finish();
    places.merge(inner.places);
    missing.insert(missing.end(), inner.missing.begin(), inner.missing.end());
  }

  KeyPlaces places;
  std::vector<std::string> missing;

 private:
  std::string path_of(const ConfigNode& node) const { return prefix_ + node.shown_key(); }

  // The node of that key, if given; remembers that the key is known.
  const ConfigNode* take(const FieldSpec& spec) {
    known_.push_back(spec.name);
    if (!spec.alias.empty()) known_.push_back(spec.alias);
    const ConfigNode* found = node_->find(spec.name);
    const ConfigNode* other = spec.alias.empty() ? nullptr : node_->find(spec.alias);
    if (found && other) {
      throw ConfigError({.what = prefix_ + spec.name + " is given twice, also as " + spec.alias,
                         .where = other->where,
                         .hint = "keeping only one of them"});
    }
    if (!found) found = other;
    if (found) {
      taken_.push_back(found);
      places[prefix_ + spec.name] = found->where;
    } else if (spec.required) {
      missing.push_back(prefix_ + spec.name);
    }
    return found;
  }

  void read_list(const FieldSpec& spec, const std::string& path, const ConfigNode& node, const SectionRef& section) {
    if (node.kind == Kind::null && !spec.required) return section.resize(0);
    if (node.kind != Kind::list) fail_type(path, node, "a list of maps, such as [{path: …}]");
    if (node.children.empty() && spec.required) {
      throw ConfigError({.what = path + " is empty", .expected = "one entry or more", .where = node.where});
    }
    section.resize(node.children.size());
    for (size_t i = 0; i < node.children.size(); ++i) {
      enter(node.children[i], path + "." + std::to_string(i), section, i);
    }
  }

  [[noreturn]] static void fail_type(const std::string& path, const ConfigNode& node, const std::string& expected) {
    throw ConfigError(
        {.what = path + " has the wrong type", .expected = expected, .found = node.describe(), .where = node.where});
  }

  [[noreturn]] static void fail_range(const FieldSpec& spec, const std::string& path, const ConfigNode& node,
                                      const std::string& kind, bool below) {
    const double bound = below ? spec.min : spec.max;
    std::string nearest;
    if (std::isfinite(bound) && !(below && spec.above_min)) {
      nearest = spec.unit == Unit::bytes ? exact_bytes(static_cast<int64_t>(bound)) : exact_real(bound);
    }
    throw ConfigError({.what = path + " is out of range",
                       .expected = number_text(spec, kind),
                       .found = node.describe(),
                       .where = node.where,
                       .hint = nearest});
  }

  [[noreturn]] void fail_unknown(const ConfigNode& child) const {
    const bool dotted = child.shown_key().find('.') != std::string::npos;
    std::string near = dotted ? "" : nearest_word(child.shown_key(), known_);
    const std::string families = prefix_ == "model." ? families_with(child.shown_key()) : "";
    if (const ConfigNode* family = node_->find("model_type"); family && !families.empty()) {
      throw ConfigError({.what = "unknown key " + path_of(child),
                         .expected = "a model_type that has it: " + families,
                         .found = family->text,
                         .where = child.where});
    }
    if (near.empty()) {
      // The same (or nearly the same) name in another section, or a dotted name written flat.
      Config all;
      PathCollector collector;
      describe(collector, all);
      std::vector<std::string> leaves;
      for (const std::string& path : collector.paths) leaves.push_back(path.substr(path.rfind('.') + 1));
      const auto flat = std::find(collector.paths.begin(), collector.paths.end(), child.shown_key());
      const auto leaf = std::find(leaves.begin(), leaves.end(), nearest_word(child.shown_key(), leaves));
      if (flat != collector.paths.end()) {
        near = *flat + " written as " + flat->substr(0, flat->find('.')) + ": {" + flat->substr(flat->find('.') + 1) +
               ": …}";
      } else if (leaf != leaves.end()) {
        near = collector.paths[static_cast<size_t>(leaf - leaves.begin())];
      }
    } else {
      near = prefix_ + near;
    }
    throw ConfigError({.what = "unknown key " + path_of(child),
                       .expected = near.empty() ? "one of " + join(known_, ", ") : "",
                       .where = child.where,
                       .hint = near});
  }

  static std::string scalar(const FieldSpec&, const std::string& path, const ConfigNode& node,
                            const std::string& expected) {
    if (node.kind != Kind::scalar) fail_type(path, node, expected);
    return node.text;
  }

  int64_t integer(const FieldSpec& spec, const std::string& path, const ConfigNode& node, std::string also = "") const {
    const std::string word = node.kind == Kind::null ? "null" : node.text;
    for (const auto& [name, value] : spec.words) {
      if ((node.kind == Kind::scalar || node.kind == Kind::null) && name == word) return value;
      also += " or " + name;
    }
    const bool bytes = spec.unit == Unit::bytes;
    const std::string kind = bytes ? "a byte count such as 4GiB" : "an integer";
    const std::string text = scalar(spec, path, node, number_text(spec, kind) + also);
    const auto value = node.quoted ? std::nullopt : bytes ? parse_bytes(text) : parse_count(text);
    if (!value) fail_type(path, node, number_text(spec, kind) + also);
    const double real = static_cast<double>(*value);
    if (real < spec.min || real > spec.max) fail_range(spec, path, node, kind, real < spec.min);
    return *value;
  }

  double real(const FieldSpec& spec, const std::string& path, const ConfigNode& node,
              const std::string& also = "") const {
    const bool seconds = spec.unit == Unit::seconds;
    const std::string kind = seconds ? "a time such as 10min" : "a number";
    const std::string text = scalar(spec, path, node, number_text(spec, kind) + also);
    const auto value = node.quoted ? std::nullopt : seconds ? parse_seconds(text) : parse_real(text);
    if (!value) fail_type(path, node, number_text(spec, kind) + also);
    const bool below = *value < spec.min || (spec.above_min && *value == spec.min);
    if (below || *value > spec.max) fail_range(spec, path, node, kind, below);
    return *value;
  }

  static bool is_none(const FieldSpec& spec, const ConfigNode& node) {
    if (node.kind == Kind::null) return spec.none == "null";
    return node.kind == Kind::scalar && !node.quoted && node.text == spec.none;
  }

  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, bool* out) const {
    const std::string text = scalar(spec, path, node, "true or false");
    if (node.quoted || (text != "true" && text != "false")) fail_type(path, node, "true or false");
    *out = text == "true";
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, int64_t* out) const {
    *out = integer(spec, path, node);
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, double* out) const {
    *out = real(spec, path, node);
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, std::string* out) const {
    *out = scalar(spec, path, node, "a text");
    if (out->empty()) {
      throw ConfigError({.what = path + " is empty", .expected = "a text", .where = node.where});
    }
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, std::array<double, 2>* out) const {
    if (node.kind != Kind::list || node.children.size() != 2) fail_type(path, node, "a list of two numbers");
    for (size_t i = 0; i < 2; ++i) (*out)[i] = real(spec, path, node.children[i]);
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, std::vector<int64_t>* out) const {
    if (node.kind != Kind::list) fail_type(path, node, "a list of integers");
    out->clear();
    for (const ConfigNode& child : node.children) out->push_back(integer(spec, path, child));
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, std::optional<int64_t>* out) const {
    out->reset();
    if (!is_none(spec, node)) *out = integer(spec, path, node, " or " + spec.none);
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, std::optional<double>* out) const {
    out->reset();
    if (!is_none(spec, node)) *out = real(spec, path, node, " or " + spec.none);
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node,
            std::optional<std::string>* out) const {
    out->reset();
    if (!is_none(spec, node)) *out = scalar(spec, path, node, "a text or " + spec.none);
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node,
            std::optional<std::vector<int64_t>>* out) const {
    out->reset();
    if (is_none(spec, node)) return;
    if (node.kind != Kind::list) fail_type(path, node, "a list of integers or " + spec.none);
    read(spec, path, node, &out->emplace());
  }
  void read(const FieldSpec& spec, const std::string& path, const ConfigNode& node, const EnumRef& out) const {
    const std::vector<std::string> names(out.names.begin(), out.names.end());
    const std::string expected = join(names, " | ");
    const std::string text = node.kind == Kind::null ? "null" : scalar(spec, path, node, expected);
    const auto found = std::find(names.begin(), names.end(), text);
    if (found == names.end()) {
      throw ConfigError({.what = path + " has an unknown value",
                         .expected = expected,
                         .found = node.describe(),
                         .where = node.where,
                         .hint = nearest_word(text, names)});
    }
    out.set(static_cast<size_t>(found - names.begin()));
  }

  const ConfigNode* node_;  // the map that is read
  std::string prefix_;      // "optimizer.schedule."
  std::vector<std::string> known_;
  std::vector<const ConfigNode*> taken_;
};

template <class T>
KeyPlaces read_whole(const ConfigNode& root, const std::string& path, T& target) {
  const SectionRef whole{.shape = SectionRef::Shape::one,
                         .size = [] { return size_t{1}; },
                         .resize = [](size_t) {},
                         .describe = [&](FieldVisitor& v, size_t) { describe(v, target); }};
  Reader reader(root, "");
  reader.enter(root, path, whole, 0);
  if (!reader.missing.empty()) {
    const std::string what = reader.missing.size() == 1 ? "a required key is missing: " : "required keys are missing: ";
    throw ConfigError(
        {.what = what + join(reader.missing, ", "),
         .where = root.where.substr(0, root.where.rfind(':')),
         .hint = "adding " + reader.missing.front() + " to the file or --set " + reader.missing.front() + "=…"});
  }
  return reader.places;
}

}  // namespace

KeyPlaces read_tree(const ConfigNode& root, Config& config) {
  static const ConfigNode kEmpty{.kind = Kind::map};
  if (root.kind != Kind::null) return read_whole(root, "", config);
  ConfigNode empty = kEmpty;
  empty.where = root.where;
  return read_whole(empty, "", config);
}

KeyPlaces read_tree(const ConfigNode& root, ModelConfig& model) { return read_whole(root, "model", model); }

std::vector<ModelKey> model_keys(ModelFamily family) {
  ModelConfig model{.family = family};
  KeyCollector collector;
  describe(collector, model);
  return collector.keys;
}

}  // namespace trireme
