#include "core/data/bpe/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace trireme::bpe {

namespace {

// Whether the character stays as it is whatever stands before it, and ends what a change before it can reach: it
// doesn't decompose, isn't reordered and isn't the second part of a composition. Some that would qualify are left out.
bool is_stable(utf8proc_int32_t c) {
  if (c < 0x300) return true;
  if (c >= 0xAC00 && c <= 0xD7A3) return true;   // Hangul syllables
  if (c >= 0x1100 && c <= 0x11FF) return false;  // Hangul letters, which compose
  const utf8proc_property_t& property = *utf8proc_get_property(c);
  if (property.combining_class != 0) return false;
  // The second parts of compositions are marks.
  const auto category = property.category;
  if (category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME) {
    return false;
  }
  const bool decomposes = property.decomp_seqindex != UINT16_MAX && property.decomp_type == 0;
  return !decomposes;
}

utf8proc_int32_t next_character(std::string_view text, size_t& at) {
  const unsigned char first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) {
    ++at;
    return first;
  }
  utf8proc_int32_t c = 0;
  const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                      static_cast<utf8proc_ssize_t>(text.size() - at), &c);
  TRIREME_CHECK(bytes > 0, "normalization takes UTF-8 only");
  at += static_cast<size_t>(bytes);
  return c;
}

void append_normalized(std::string_view part, std::string& out) {
  utf8proc_uint8_t* composed = nullptr;
  const auto bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(part.data()), static_cast<utf8proc_ssize_t>(part.size()),
                   &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (bytes < 0) throw MachineError({.what = "a text can't be normalized", .found = utf8proc_errmsg(bytes)});
  out.append(reinterpret_cast<const char*>(composed), static_cast<size_t>(bytes));
  free(composed);
}

}  // namespace

std::string_view nfc(std::string_view text, std::string& buffer) {
  bool changes = false;
  size_t done = 0;         // text before it is in the buffer, once something changed
  size_t last_stable = 0;  // where the last stable character began
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (is_stable(next_character(text, at))) {
      last_stable = begin;
      continue;
    }
    // From the stable character before to the next one.
    size_t end = at;
    while (at < text.size() && !is_stable(next_character(text, at))) end = at;
    at = end;
    if (!changes) buffer.clear();
    changes = true;
    const size_t from = std::max(done, last_stable);
    buffer += text.substr(done, from - done);
    append_normalized(text.substr(from, end - from), buffer);
    done = end;
  }
  if (!changes) return text;
  buffer += text.substr(done);
  return buffer;
}

}  // namespace trireme::bpe
