// dump_config and config_reference: the two visitors that write the description of the configuration.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/config/fields.h"
#include "core/config/load.h"
#include "core/config/reader.h"
#include "core/config/units.h"

namespace trireme {

namespace {

bool is_plain(const std::string& text) {
  static const std::vector<std::string> kNulls = {"null", "Null", "NULL", "~", ""};
  if (std::find(kNulls.begin(), kNulls.end(), text) != kNulls.end() || text.front() == '-') return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '/' || c == '-';
  });
}

// A YAML scalar: plain where that is safe, else in double quotes.
std::string quote(const std::string& text) {
  if (is_plain(text)) return text;
  static const char* kHex = "0123456789ABCDEF";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += std::string("\\") + c;
    } else if (byte < 0x20 || byte == 0x7F) {
      out += std::string("\\x") + kHex[byte >> 4] + kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string number(const FieldSpec& spec, int64_t value) {
  for (const auto& [word, meaning] : spec.words) {
    if (meaning == value) return word;
  }
  return spec.unit == Unit::bytes ? exact_bytes(value) : std::to_string(value);
}

std::string list_text(const FieldSpec& spec, const std::vector<int64_t>& values) {
  std::string out;
  for (const int64_t value : values) out += (out.empty() ? "" : ", ") + number(spec, value);
  return "[" + out + "]";
}

std::string value_text(const FieldSpec& spec, const FieldRef& ref) {
  struct Text {
    const FieldSpec& spec;
    std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
    std::string operator()(const int64_t* v) const { return number(spec, *v); }
    std::string operator()(const double* v) const { return exact_real(*v); }
    std::string operator()(const std::string* v) const { return quote(*v); }
    std::string operator()(const std::array<double, 2>* v) const {
      return "[" + exact_real((*v)[0]) + ", " + exact_real((*v)[1]) + "]";
    }
    std::string operator()(const std::vector<int64_t>* v) const { return list_text(spec, *v); }
    std::string operator()(const std::optional<int64_t>* v) const { return *v ? number(spec, **v) : spec.none; }
    std::string operator()(const std::optional<double>* v) const { return *v ? exact_real(**v) : spec.none; }
    std::string operator()(const std::optional<std::string>* v) const { return *v ? quote(**v) : spec.none; }
    std::string operator()(const std::optional<std::vector<int64_t>>* v) const {
      return *v ? list_text(spec, **v) : spec.none;
    }
    std::string operator()(const EnumRef& v) const { return std::string(v.names.at(v.get())); }
  };
  return std::visit(Text{spec}, ref);
}

// Sections of the first level as blocks, one key a line; deeper ones in flow style.
class Dumper final : public FieldVisitor {
 public:
  void field(const FieldSpec& spec, const FieldRef& value) override { put(spec.name, value_text(spec, value)); }

  void section(const FieldSpec& spec, const SectionRef& section) override {
    if (depth_ == 0) {
      text += spec.name + ":\n";
      depth_ = 1;
      section.describe(*this, 0);
      depth_ = 0;
      return;
    }
    std::string items;
    for (size_t i = 0; i < section.size(); ++i) {
      Dumper inner;
      inner.depth_ = 2;
      section.describe(inner, i);
      items += (i == 0 ? "{" : ", {") + inner.text + "}";
    }
    if (section.shape == SectionRef::Shape::list) {
      put(spec.name, "[" + items + "]");
    } else {
      put(spec.name, items.empty() ? "null" : items);
    }
  }

  std::string text;

 private:
  void put(const std::string& name, const std::string& value) {
    if (depth_ == 2) {
      text += (text.empty() ? "" : ", ") + name + ": " + value;
    } else {
      text += "  " + name + ": " + value + "\n";
    }
  }

  int depth_ = 0;
};

std::string kind_text(const FieldSpec& spec, const FieldRef& ref) {
  struct Kind {
    const FieldSpec& spec;
    std::string integer() const { return spec.unit == Unit::bytes ? "bytes" : "integer"; }
    std::string operator()(const bool*) const { return "true, false"; }
    std::string operator()(const int64_t*) const { return integer(); }
    std::string operator()(const double*) const { return spec.unit == Unit::seconds ? "time" : "number"; }
    std::string operator()(const std::string*) const { return "text"; }
    std::string operator()(const std::array<double, 2>*) const { return "[number, number]"; }
    std::string operator()(const std::vector<int64_t>*) const { return "list of integers"; }
    std::string operator()(const std::optional<int64_t>*) const { return spec.none + ", " + integer(); }
    std::string operator()(const std::optional<double>*) const { return spec.none + ", number"; }
    std::string operator()(const std::optional<std::string>*) const { return spec.none + ", text"; }
    std::string operator()(const std::optional<std::vector<int64_t>>*) const {
      return spec.none + ", list of integers";
    }
    std::string operator()(const EnumRef& v) const {
      std::string out;
      for (const std::string_view name : v.names) out += (out.empty() ? "" : ", ") + std::string(name);
      return out;
    }
  };
  std::string out;
  for (const auto& [word, meaning] : spec.words) out += word + ", ";
  out += std::visit(Kind{spec}, ref);
  if (std::isfinite(spec.min)) out += (spec.above_min ? " > " : " ≥ ") + exact_real(spec.min);
  if (std::isfinite(spec.max)) out += " ≤ " + exact_real(spec.max);
  return out;
}

// One Markdown table for each section of the first level.
class Reference final : public FieldVisitor {
 public:
  void field(const FieldSpec& spec, const FieldRef& value) override {
    const std::string doc = spec.alias.empty() ? spec.doc : spec.doc + " (also `" + spec.alias + "`)";
    row(spec, kind_text(spec, value), spec.required ? "required" : "`" + value_text(spec, value) + "`", doc);
  }

  void section(const FieldSpec& spec, const SectionRef& section) override {
    if (prefix_.empty()) {
      text += "\n## " + spec.name + "\n\n| key | values | default | meaning |\n|---|---|---|---|\n";
    } else if (section.shape != SectionRef::Shape::one) {
      const bool list = section.shape == SectionRef::Shape::list;
      row(spec, list ? "list of maps" : "null, map", spec.required ? "required" : list ? "`[]`" : "`null`", spec.doc);
      section.resize(1);
    }
    const std::string outer = prefix_;
    prefix_ += spec.name + (section.shape == SectionRef::Shape::list ? ".N." : ".");
    section.describe_all ? section.describe_all(*this) : section.describe(*this, 0);
    prefix_ = outer;
  }

  // A table of the keys that only models with experts have, each with the families that know it.
  void experts() {
    text += "\n## model, families with experts\n\n| key | values | default | meaning |\n|---|---|---|---|\n";
    std::map<std::string, std::string> families;
    for (const std::string_view name : names_of(ModelFamily{})) {
      for (const ModelKey& key : model_keys(family_named(name))) {
        std::string& list = families[key.name];
        list += (list.empty() ? "" : ", ") + std::string(name);
      }
    }
    prefix_ = "model.";
    for (const std::string_view name : names_of(ModelFamily{})) {
      ModelConfig model{.family = family_named(name)};
      if (model.family == ModelFamily::gpt2) continue;
      Reference inner;
      inner.prefix_ = prefix_;
      inner.seen_ = seen_;
      inner.families_ = &families;
      describe(inner, model);
      text += inner.text;
      seen_ = inner.seen_;
    }
  }

  std::string text;

 private:
  static ModelFamily family_named(std::string_view name) {
    const Names names = names_of(ModelFamily{});
    return static_cast<ModelFamily>(std::find(names.begin(), names.end(), name) - names.begin());
  }

  void row(const FieldSpec& spec, const std::string& kind, const std::string& fallback, const std::string& doc) {
    if (!seen_.insert(prefix_ + spec.name).second) return;
    const std::string who = families_ ? " (" + families_->at(spec.name) + ")" : "";
    text += "| `" + prefix_ + spec.name + "` | " + kind + " | " + fallback + " | " + doc + who + " |\n";
  }

  std::string prefix_;
  std::set<std::string> seen_;
  const std::map<std::string, std::string>* families_ = nullptr;
};

}  // namespace

std::string dump_config(const Config& config) {
  Config copy = config;  // describe() takes a mutable one, for the reader's sake
  Dumper dumper;
  describe(dumper, copy);
  return dumper.text;
}

std::string config_reference() {
  Config config;
  Reference reference;
  reference.text =
      "# Configuration reference\n\nGenerated by `trireme train --help-config`. Byte counts take `KiB`, `MiB`, `GiB`, "
      "`TiB`; times `s`, `min`, `h`; integers `k`, `M`, `B`.\n`--set key=value` takes every key with its dots; "
      "`model.config: PATH` reads a Hugging Face `config.json`, single keys beside it override it.\n";
  describe(reference, config);
  reference.experts();
  return reference.text;
}

}  // namespace trireme
