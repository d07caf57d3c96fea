// The description of the configuration: `describe` lists every key of a section with its name, range and meaning,
// once. The reader (reader.h), the writer and the reference (writer.cc) are visitors of that list, so that a key
// added in fields.cc is parsed, checked, settable by --set, dumped and documented.
#pragma once

#include <functional>
#include <limits>
#include <utility>
#include <variant>

#include "core/config/config.h"

namespace trireme {

enum class Unit { none, bytes, seconds };

using Words = std::vector<std::pair<std::string, int64_t>>;

struct FieldSpec {
  std::string name;
  std::string doc = {};
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  // `min` itself is not allowed
  bool required = false;
  std::string none = "null";  // how nullopt is written: null, auto, all
  Words words = {};           // words that stand for a number
  std::string alias = {};     // a second name
  Unit unit = Unit::none;
};

// Any enum with names_of().
class EnumRef {
 public:
  template <class E>
  explicit EnumRef(E& value)
      : names(names_of(value)),
        object_(&value),
        get_([](const void* p) { return static_cast<size_t>(*static_cast<const E*>(p)); }),
        set_([](void* p, size_t i) { *static_cast<E*>(p) = static_cast<E>(i); }) {}

  size_t get() const { return get_(object_); }
  void set(size_t i) const { set_(object_, i); }

  Names names;

 private:
  void* object_;
  size_t (*get_)(const void*);
  void (*set_)(void*, size_t);
};

using FieldRef = std::variant<bool*, int64_t*, double*, std::string*, std::array<double, 2>*, std::vector<int64_t>*,
                              std::optional<int64_t>*, std::optional<double>*, std::optional<std::string>*,
                              std::optional<std::vector<int64_t>>*, EnumRef>;

class FieldVisitor;

// A section inside a section: one, at most one (null: absent), or a list of them.
struct SectionRef {
  enum class Shape { one, optional, list };
  Shape shape;
  std::function<size_t()> size;                         // sections present now
  std::function<void(size_t)> resize;                   // for optional (0 or 1) and list
  std::function<void(FieldVisitor&, size_t)> describe;  // lists the fields of the i-th
  // Where fields depend on a type: lists those of every type, some of them several times. Empty: describe does.
  std::function<void(FieldVisitor&)> describe_all = {};
};

class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;
  virtual void field(const FieldSpec& spec, const FieldRef& value) = 0;
  virtual void section(const FieldSpec& spec, const SectionRef& section) = 0;
};

// Calls `visitor` for every section of `config`. Which fields of the model are listed depends on its family, which
// is listed first.
void describe(FieldVisitor& visitor, Config& config);

// The model section alone, as `describe(config)` lists its fields.
void describe(FieldVisitor& visitor, ModelConfig& model);

}  // namespace trireme
